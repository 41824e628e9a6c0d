"""Posterior samplers against laws in closed form: of normal data each draws a normal law, computed here in float64.

The prior is N(m, C) with correlations, A has unequal singular values. A method that is exact draws the posterior; one that
is not draws a law of its own, by the recursion of its steps as matrices: its bias in closed form.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, operators, reverse, sampler, schedule
from guided_jax.prediction import Prediction

SHAPE, SIZE, COUNT, NOISE = (2, 2, 1), 4, 4000, 0.2
RNG = np.random.default_rng(0)
VECTORS, _ = np.linalg.qr(RNG.standard_normal((SIZE, SIZE)))
COVARIANCE = VECTORS @ np.diag([1.2, 0.5, 0.2, 0.05]) @ VECTORS.T
MEAN = np.sin(1.0 + np.arange(SIZE))
LEFT, _ = np.linalg.qr(RNG.standard_normal((2, 2)))
RIGHT, _ = np.linalg.qr(RNG.standard_normal((SIZE, SIZE)))
SINGULAR = np.array([1.0, 0.4])
A = LEFT @ np.diag(SINGULAR) @ RIGHT[:, :2].T
TRUTH = MEAN + np.linalg.cholesky(COVARIANCE) @ RNG.standard_normal(SIZE)
Y = A @ TRUTH + NOISE * RNG.standard_normal(2)
OPERATOR = operators.matrix(jnp.asarray(A, jnp.float32), SHAPE)
UNIT = np.eye(SIZE)

TABLES = {
    "VP": schedule.respace(schedule.cosine(1000), 40),
    "VE": schedule.karras(40, 0.01, 20.0),
    "flow": schedule.respace(schedule.flow(1000), 40),
}
FINE = {"VE 300": schedule.karras(300, 0.01, 20.0)}


def posterior(noise=NOISE, prior=COVARIANCE):
    """Mean and covariance of x_0 given y."""
    gain = prior @ A.T @ np.linalg.inv(A @ prior @ A.T + noise**2 * np.eye(2))
    return MEAN + gain @ (Y - A @ MEAN), prior - gain @ A @ prior


def denoiser(mean=MEAN, covariance=COVARIANCE):
    """E[x_0 | x_t] and E[eps | x_t] of a normal law."""
    mean, covariance = jnp.asarray(mean, jnp.float32), jnp.asarray(covariance, jnp.float32)

    def denoise(x_t, level):
        total = level.alpha**2 * covariance + level.sigma**2 * jnp.eye(SIZE)
        offset = jnp.linalg.solve(total, x_t.reshape(-1) - level.alpha * mean)
        x_0, eps = mean + level.alpha * covariance @ offset, level.sigma * offset
        return Prediction(x_0.reshape(SHAPE), eps.reshape(SHAPE))

    return denoise


# --- the laws of the samplers, in float64 ----------------------------------------------------------------------------


def amplitudes(name):
    """(alpha, sigma) of each level of a table, in float64."""
    return [(float(a), float(s)) for a, s in zip(*(TABLES | FINE)[name][1:], strict=True)]


def affine(now, covariance=COVARIANCE):
    """(G, g): E[x_0 | x_t] = G x_t + g."""
    alpha, sigma = now
    gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * UNIT)
    return gain, MEAN - alpha * gain @ MEAN


def back(now, then):
    """(kept, share, variance): q(x_s | x_t, x_0) = N(kept x_t + share x_0, variance)."""
    (alpha, sigma), (alpha_s, sigma_s) = now, then
    a = alpha / alpha_s
    beta = sigma**2 - a**2 * sigma_s**2
    return a * sigma_s**2 / sigma**2, alpha_s * beta / sigma**2, beta * sigma_s**2 / sigma**2


def by_ddnm(name, now, then, noise=NOISE, covariance=COVARIANCE, eta=0.85):
    (gain, shift), (kept, share, variance) = affine(now, covariance), back(now, then)
    arrives = share * noise / SINGULAR
    enough = np.sqrt(variance) >= arrives  # for the noise that y brings along
    part = np.where(enough, 1, np.sqrt(1 - eta**2) * np.sqrt(variance) / np.where(enough, 1, arrives))
    inverse = RIGHT[:, :2] @ np.diag(part / SINGULAR) @ LEFT.T
    left = np.where(enough, variance - arrives**2, eta**2 * variance)
    left = np.concatenate([left, np.full(2, variance)])
    rest = UNIT - inverse @ A
    return kept * UNIT + share * rest @ gain, share * (rest @ shift + inverse @ Y), RIGHT @ np.diag(left) @ RIGHT.T


def by_diffpir(name, now, then, weight=3.0, zeta=0.4):
    (gain, shift), (alpha, sigma), (alpha_s, sigma_s) = affine(now), now, then
    towards = A.T @ np.linalg.inv(A @ A.T + weight * NOISE**2 * alpha**2 / sigma**2 * np.eye(2))
    gain, shift = gain - towards @ A @ gain, shift + towards @ (Y - A @ shift)
    old = sigma_s * np.sqrt(1 - zeta) / sigma
    return (alpha_s - old * alpha) * gain + old * UNIT, (alpha_s - old * alpha) * shift, zeta * sigma_s**2 * UNIT


def between(name, now, calls):
    """The levels of a short run from `now`, by the ratio sigma / alpha of each, which says the level of its kind."""
    top = min(now[1] / now[0] if now[0] else np.inf, 80.0)
    first = amplitudes(name)[1]
    bottom = min(first[1] / first[0], top)
    ratios = np.linspace(top ** (1 / 7), bottom ** (1 / 7), calls)[1:] ** 7
    alphas = {"VP": 1 / np.sqrt(1 + ratios**2), "VE": np.ones_like(ratios), "flow": 1 / (1 + ratios)}[name.split()[0]]
    return [now, *zip(alphas, alphas * ratios, strict=True), (1.0, 0.0)]


def composed(steps):
    """(F, f, Q) of affine steps x <- F x + f + N(0, Q), one after another."""
    whole, offset, spread = UNIT, np.zeros(SIZE), np.zeros((SIZE, SIZE))
    for gain, shift, noise in steps:
        whole, offset, spread = gain @ whole, gain @ offset + shift, gain @ spread @ gain.T + noise
    return whole, offset, spread


def descended(name, now, calls, stochastic):
    """x_0 by a short run of DDIM with eta 0 or 1."""
    steps = []
    for above, below in itertools.pairwise(between(name, now, calls)):
        gain, shift = affine(above)
        if stochastic:
            kept, share, variance = back(above, below)
        else:
            kept, variance = below[1] / above[1], 0.0
            share = below[0] - kept * above[0]
        steps.append((kept * UNIT + share * gain, share * shift, variance * UNIT))
    return composed(steps)


def by_daps(name, now, then, calls=4, iterations=15, size=0.3):
    tightness = now[0] ** 2 / now[1] ** 2
    curvature = A.T @ A / NOISE**2 + tightness * UNIT
    length = size / (tightness + SINGULAR.max() ** 2 / NOISE**2)
    once = UNIT - length * curvature
    whole, offset, spread = descended(name, now, calls, stochastic=False)
    walked = (whole, offset, spread)
    for _ in range(iterations):
        gain, shift, noise = walked
        walked = (
            once @ gain + length * tightness * whole,
            once @ shift + length * (tightness * offset + A.T @ Y / NOISE**2),
            once @ noise @ once.T + 2 * length * UNIT,
        )
    return composed([walked, (then[0] * UNIT, np.zeros(SIZE), then[1] ** 2 * UNIT)])


def by_gibbs(name, now, then, calls=20):
    rho = then[1] / then[0]
    spread = np.linalg.inv(A.T @ A / NOISE**2 + UNIT / rho**2) if rho else np.zeros((SIZE, SIZE))
    towards = spread @ A.T / NOISE**2
    likely = then[0] * (UNIT - towards @ A), then[0] * towards @ Y, then[0] ** 2 * spread
    return composed([descended(name, now, calls, stochastic=True), likely])


def law(by, name):
    """Mean and covariance of the samples from x_T ~ N(0, sigma_T^2)."""
    levels = amplitudes(name)
    start = np.zeros((SIZE, SIZE)), np.zeros(SIZE), levels[-1][1] ** 2 * UNIT
    pairs = zip(levels[:0:-1], levels[-2::-1], strict=True)
    _, mean, covariance = composed([start, *(by(name, now, then) for now, then in pairs)])
    return mean, covariance


def assert_law(draws, mean, covariance, most=4.5):
    """The draws have this mean and covariance within `most` standard errors in each direction; y itself where it is 0."""
    values, vectors = np.linalg.eigh(covariance)
    offset = (np.asarray(draws, np.float64).reshape(len(draws), -1) - mean) @ vectors
    flat = values < 1e-9
    np.testing.assert_allclose(offset[:, flat], 0, atol=1e-3)
    white = offset[:, ~flat] / np.sqrt(values[~flat])
    far = np.sqrt(len(white)) * (white.T @ white / len(white) - np.eye(white.shape[1]))
    assert np.abs(np.sqrt(len(white)) * white.mean(0)).max() < most
    assert np.abs(far / np.where(np.eye(len(far)) == 1, np.sqrt(2), 1)).max() < most


# Each strength is traced: noise_std, then those of the row.
ROWS = {
    "ddnm": (
        lambda levels, noise, eta: reverse.ddnm(OPERATOR, jnp.asarray(Y, jnp.float32), noise, eta),
        by_ddnm,
        (0.85,),
    ),
    "ddnm, no noise": (
        lambda levels, noise: reverse.ddnm(OPERATOR, jnp.asarray(Y, jnp.float32)),
        functools.partial(by_ddnm, noise=0),
        (),
    ),
    "diffpir": (
        lambda levels, noise, *rest: reverse.diffpir(OPERATOR, jnp.asarray(Y, jnp.float32), noise, *rest),
        by_diffpir,
        (3.0, 0.4),
    ),
    "daps": (
        lambda levels, noise, size: reverse.daps(
            guidance.likelihood(OPERATOR, jnp.asarray(Y, jnp.float32), noise), levels, 1 / noise**2, 4, 15, size
        ),
        by_daps,
        (0.3,),
    ),
    "split_gibbs": (
        lambda levels, noise: reverse.split_gibbs(OPERATOR, jnp.asarray(Y, jnp.float32), noise, levels, 8),
        functools.partial(by_gibbs, calls=8),
        (),
    ),
}


@functools.cache
def draws(row):
    """Samples of a row by VP, VE and flow levels, (COUNT, *SHAPE) each: one program."""
    make, _, strengths = ROWS[row]

    def draw(key, levels, *strengths):
        x_T = levels.sigma[-1] * jax.random.normal(jax.random.fold_in(key, 0), SHAPE)
        return sampler.sample(key, denoiser(), make(levels, *strengths), x_T, levels)

    many = jax.jit(jax.vmap(draw, (0, None, *[None] * (1 + len(strengths)))))
    keys = jax.random.split(jax.random.key(1), COUNT)
    return [many(keys, table, NOISE, *strengths) for table in TABLES.values()]


@pytest.mark.parametrize("row", ROWS)
def test_samples_follow_the_law_of_the_method(row):
    for name, drawn in zip(TABLES, draws(row), strict=True):
        assert_law(drawn, *law(ROWS[row][1], name))


def distance(found, exact):
    """The Wasserstein-2 distance of two normal laws."""
    (mean, covariance), (other, wide) = found, exact
    values, vectors = np.linalg.eigh(wide)
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0)).sum()
    return np.sqrt(np.square(mean - other).sum() + np.trace(covariance + wide) - 2 * mixed)


@pytest.mark.parametrize("name", TABLES)
def test_split_gibbs_comes_near_the_posterior_and_the_others_less_so(name):
    laws = {"ddnm": by_ddnm, "diffpir": by_diffpir, "daps": by_daps, "split_gibbs": by_gibbs}
    far = {row: distance(law(by, name), posterior()) for row, by in laws.items()}
    far["prior"] = distance((MEAN, COVARIANCE), posterior())
    assert far["split_gibbs"] < 0.2 * far["prior"], far
    assert all(1.4 * far["split_gibbs"] < far[row] < far["prior"] for row in ("ddnm", "diffpir", "daps")), far


@pytest.mark.parametrize("place", [15, 35])
def test_split_gibbs_at_a_held_level_draws_its_target_as_the_calls_grow(place):
    """z follows p(y | z) (p * N(0, rho^2 I))(z): the fixed point of its step against that law."""
    now = amplitudes("VP")[place]
    prior = np.linalg.inv(COVARIANCE + (now[1] / now[0]) ** 2 * UNIT)
    exact = np.linalg.inv(prior + A.T @ A / NOISE**2)
    target = exact @ (prior @ MEAN + A.T @ Y / NOISE**2), exact
    far = []
    for calls in (10, 300):
        gain, shift, spread = by_gibbs("VP", now, now, calls)
        held = np.linalg.solve(np.eye(SIZE**2) - np.kron(gain, gain), spread.reshape(-1)).reshape(SIZE, SIZE)
        far.append(distance((np.linalg.solve(UNIT - gain, shift) / now[0], held / now[0] ** 2), target))
    assert far[1] < 0.05 * far[0]
    assert far[1] < 0.01


def test_split_gibbs_draws_z_from_the_product_of_both_laws():
    """Of a denoiser that always says MEAN: z ~ N(z; MEAN, rho^2) p(y | z), at a rho that is as large as the noise."""
    now, then = (
        schedule.NoiseLevel(jnp.float32(t), jnp.float32(1), jnp.float32(rho)) for t, rho in ((2, 0.5), (1, NOISE))
    )
    step = reverse.split_gibbs(OPERATOR, jnp.asarray(Y, jnp.float32), NOISE, TABLES["VE"], 1)
    constant = lambda x_t, level: Prediction(jnp.asarray(MEAN, jnp.float32).reshape(SHAPE), x_t)  # noqa: E731
    draw = lambda key: step.step(key, constant, jnp.zeros(SHAPE), (), now, then)[0]  # noqa: E731
    found = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), COUNT))
    spread = np.linalg.inv(A.T @ A / NOISE**2 + UNIT / NOISE**2)
    assert_law(found, spread @ (A.T @ Y + MEAN) / NOISE**2, spread)


def test_ddnm_draws_the_posterior_of_white_data_and_not_of_correlated():
    """What is not measured follows the prior, whatever y: right only where it says nothing of it."""
    white, none = 0.5 * UNIT, 1e-5
    right = law(functools.partial(by_ddnm, noise=0, covariance=white), "VE 300")
    assert distance(right, posterior(none, white)) < 0.02
    wrong = law(functools.partial(by_ddnm, noise=0), "VE 300")
    assert distance(wrong, posterior(none)) > 0.2


def test_ddnm_of_a_noisy_measurement_is_better_where_a_weak_part_of_it_gets_new_noise():
    """The noise of y is the same at every step: along a small singular value it adds up, unless replaced by new noise."""
    far = [distance(law(functools.partial(by_ddnm, eta=eta), "VP"), posterior()) for eta in (0.0, 0.5, 0.85, 1.0)]
    assert (np.diff(far) < -0.02).all(), far


def test_diffpir_of_normal_data_varies_less_the_more_noise_is_new():
    """At a held level: sigma^2 zeta / (1 - g^2) instead of alpha^2 s^2 + sigma^2, which it is for a zeta near 0."""
    level, std, key = schedule.at(TABLES["VP"], 20), 0.7, jax.random.key(0)
    alpha, sigma = float(level.alpha), float(level.sigma)
    p = alpha**2 * std**2 / (alpha**2 * std**2 + sigma**2)

    def denoise(x_t, level):
        return Prediction(p / alpha * x_t, (1 - p) / sigma * x_t)

    def reached(zeta):
        step = reverse.diffpir(operators.mask(jnp.zeros(1)), jnp.zeros(1), 0.1, zeta=zeta)
        still, moved = (step.step(key, denoise, jnp.array([x]), (), level, level)[0] for x in (0.0, 1.0))
        return jnp.square(still / jax.random.normal(key, (1,))) / (1 - jnp.square(moved - still))

    for zeta in (1e-3, 0.3, 1.0):
        g = p + np.sqrt(1 - zeta) * (1 - p)
        np.testing.assert_allclose(reached(zeta), sigma**2 * zeta / (1 - g**2), rtol=1e-2)
    np.testing.assert_allclose(reached(1e-3), alpha**2 * std**2 + sigma**2, rtol=2e-2)
    assert reached(1.0) < 0.95 * (alpha**2 * std**2 + sigma**2)


def test_daps_draws_from_a_nonlinear_measurement_by_the_law_of_its_langevin_steps():
    """N(x; x_0, r^2) p(y | clip(2 x)) against its moments by quadrature: the clip makes it far from normal."""
    level, clean = schedule.NoiseLevel(*jnp.array([1.0, 1.0, 0.5])), schedule.NoiseLevel(*jnp.array([0.0, 1.0, 0.0]))
    y, noise, start, spread = 0.9, 0.3, 0.1, 0.6
    log_prob = guidance.likelihood(operators.clipping(2.0), jnp.array([y]), noise)
    table = schedule.NoiseLevel(*jnp.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.5]]))
    step = reverse.daps(log_prob, table, 4 / noise**2, 1, 1500, 0.06, spread)
    constant = lambda x_t, level: Prediction(jnp.full(1, start), x_t)  # noqa: E731
    draw = lambda key: step.step(key, constant, jnp.zeros(1), (), level, clean)[0][0]  # noqa: E731
    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 8000)), np.float64)
    x = np.linspace(-4, 4, 8001)
    density = np.exp(-((x - start) ** 2) / (2 * spread**2) - (y - np.clip(2 * x, -1, 1)) ** 2 / (2 * noise**2))
    mean, square, third = ((density * x**power).sum() / density.sum() for power in (1, 2, 3))
    np.testing.assert_allclose([found.mean(), (found**2).mean(), (found**3).mean()], [mean, square, third], atol=0.03)
    assert abs(found.mean() - start) > 0.3


# --- mmps of every sampler -------------------------------------------------------------------------------------------

SAMPLERS = {
    "ddim": reverse.ddim(),
    "ddpm": reverse.ddpm(),
    "dpm++": reverse.dpm_solver(2),
    "heun": reverse.heun(),
}


@functools.cache
def guided_and_exact():
    """Samples by mmps and by the posterior's own denoiser, from the same noise, of every sampler: one program."""
    guided = guidance.mmps(denoiser(), OPERATOR, jnp.asarray(Y, jnp.float32), NOISE, 2)
    own = denoiser(*posterior())

    def draw(key, levels):
        x_T = levels.sigma[-1] * jax.random.normal(jax.random.fold_in(key, 0), SHAPE)
        return {
            name: [sampler.sample(key, each, step, x_T, levels) for each in (guided, own)]
            for name, step in SAMPLERS.items()
        }

    many, keys = jax.jit(jax.vmap(draw, (0, None))), jax.random.split(jax.random.key(2), 64)
    return [many(keys, table) for table in TABLES.values()]


@pytest.mark.parametrize("name", SAMPLERS)
def test_mmps_draws_sample_for_sample_what_the_posterior_itself_draws(name):
    """Of normal data of any covariance, by VP, VE and flow levels."""
    for drawn in guided_and_exact():
        found, want = drawn[name]
        np.testing.assert_allclose(found, want, rtol=5e-3, atol=5e-3)
        assert jnp.std(want) > 0.1


# --- all operators ---------------------------------------------------------------------------------------------------

PICTURE = (4, 6, 2)
LINEAR = {
    "mask": operators.random_mask(jax.random.key(3), PICTURE, 0.5),
    "average_pool": operators.average_pool(2),
    "gaussian_blur": operators.gaussian_blur(4, 6, 0.5),
    "motion_blur": operators.motion_blur(4, 6, 2.0, 30.0),
    "fourier": operators.fourier(PICTURE, jnp.arange(4) < 2),
    "matrix": operators.matrix(jax.random.normal(jax.random.key(7), (5, 48)), PICTURE),
}


def test_of_ddnm_without_noise_the_measurement_of_a_sample_is_y():
    """And of DiffPIR likewise: both end with the corrected x_0."""
    truth = jax.random.normal(jax.random.key(4), PICTURE)

    def seen(key):
        found = {}
        for name, operator in LINEAR.items():
            y = operator.forward(truth)
            for step in (reverse.ddnm(operator, y), reverse.diffpir(operator, y, 0.0)):
                shrink = lambda x, level: Prediction(x / 2, x / 2)  # noqa: E731
                x_0 = sampler.sample(key, shrink, step, truth, schedule.respace(schedule.cosine(1000), 3))
                found.setdefault(name, []).append(operator.forward(x_0) - y)
        return found

    for name, off in jax.jit(seen)(jax.random.key(0)).items():
        assert max(float(jnp.abs(each).max()) for each in off) < 5e-4, name


def test_what_they_cannot_do_is_said():
    operator = operators.nonlinear(jnp.tanh)
    with pytest.raises(ValueError, match="has no spectral, which ddnm needs"):
        reverse.ddnm(operator, jnp.zeros(SHAPE), 0.1)
    with pytest.raises(ValueError, match="calls is 0"):
        reverse.split_gibbs(OPERATOR, jnp.zeros(2), 0.1, TABLES["VP"], 0)
    with pytest.raises(ValueError, match="iterations is 0"):
        reverse.daps(lambda x, level: x.sum(), TABLES["VP"], 1.0, iterations=0)
    with pytest.raises(ValueError, match="noise_std"):
        reverse.diffpir(OPERATOR, jnp.zeros(2), jnp.ones(2))
