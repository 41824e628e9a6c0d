"""Particles against closed forms: evidence, posteriors, tilted and corrected laws, and the rules of resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from guided_jax import forward, guidance, operators, particles, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.parallel import devices, replicated
from guided_jax.particles import cloud as clouds
from guided_jax.particles.measurement import _ahead
from guided_jax.particles.run import _log_ratio
from tests.oracle import BROAD, MIXTURE, NARROW, ODE, SDE, variance_reached
from tests.steppers import STEPPERS

LEVELS = schedule.respace(schedule.cosine(1000), 8)
FINE = schedule.respace(schedule.cosine(1000), 100)
MATRIX, Y, NOISE = jnp.array([[1.0, 0.5]]), jnp.array([0.6]), 0.3
SEEN = particles.measurement(operators.matrix(MATRIX), Y, NOISE)


def normalised(x_0, level, noise=NOISE):
    """log N(y; A x_0, noise^2 I)."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(Y, MATRIX @ x_0.reshape(-1), noise))


def cloud_of(key, count, potential, step, levels=LEVELS, denoise=None, shape=(2,), **settings):
    x_T = levels.sigma[-1] * jax.random.normal(jax.random.fold_in(key, 1), (count, *shape))
    return particles.sample(key, denoise or MIXTURE.denoiser(), step, x_T, levels, potential, **settings)


def relative(log_values, want):
    """The mean of exp(log_values), over exp(want), and its standard error."""
    values = np.exp(np.asarray(log_values, np.float64) - float(want))
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


# --- evidence --------------------------------------------------------------------------------------------------------

NORMAL = GaussianMixture(jnp.ones(1), jnp.array([[0.5, -0.3]]), jnp.array([0.8]))
EXACT_STEP = reverse.ddpm(reverse.optimal_variance(reverse.normal_spread(0.8)))  # of NORMAL, in any number of steps


def test_the_evidence_is_unbiased():
    """2000 runs of 16 particles, 8 steps that draw the prior without error: log and plain, and the posterior's mean."""

    @jax.jit
    @jax.vmap
    def run(key):
        found = cloud_of(key, 16, particles.twisted(normalised), EXACT_STEP, denoise=NORMAL.denoiser())
        return found.log_evidence, jnp.exp(found.log_weights) @ found.x_0

    log_evidence, means = run(jax.random.split(jax.random.key(0), 2000))
    want = float(NORMAL.evidence(MATRIX, Y, NOISE))
    mean, error = relative(log_evidence, want)
    assert abs(mean - 1) < 2 * error
    assert error < 0.1
    assert abs(special.logsumexp(log_evidence) - np.log(2000) - want) < 2 * error
    unbiased = np.exp(np.asarray(log_evidence) - want)[:, None] * np.asarray(means)  # of evidence times posterior mean
    posterior = NORMAL.posterior(MATRIX, Y, NOISE).means[0]
    assert np.all(np.abs(unbiased.mean(0) - posterior) < 3 * unbiased.std(0) / np.sqrt(2000))


def test_of_normal_data_every_run_finds_the_evidence():
    """Of two measurements: the twist is p(y | x_t), the draw that of x_s given x_t and y, and no weight differs."""
    matrix, y = jnp.array([[1.0, 0.5], [0.2, -1.5]]), jnp.array([0.6, -0.4])
    seen = particles.measurement(operators.matrix(matrix), y, NOISE)
    run = jax.jit(jax.vmap(lambda key: cloud_of(key, 100, seen, EXACT_STEP, denoise=NORMAL.denoiser())))
    found, posterior = run(jax.random.split(jax.random.key(0), 40)), NORMAL.posterior(matrix, y, NOISE)
    np.testing.assert_allclose(found.log_evidence, NORMAL.evidence(matrix, y, NOISE), atol=5e-3)
    assert found.ess.min() > 99.9
    x_0 = np.asarray(found.x_0, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(x_0.mean(0), posterior.means[0], atol=0.02)
    np.testing.assert_allclose(np.cov(x_0.T), posterior.covariances[0], atol=0.006)


WRONG = {
    "beside A": [[0, 0, 1], [0, 0, 1], [1, 1, 0]],
    "below 0": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]],
}


@pytest.mark.parametrize("error", WRONG.values(), ids=WRONG)
def test_a_wrong_derivative_at_high_noise_costs_particles_and_nothing_else(error):
    """As trained networks have it, whose error sigma^2 / alpha^2 multiplies: the law stays that of the predictions."""
    law = GaussianMixture(jnp.ones(1), jnp.array([[0.5, -0.3, 0.2]]), jnp.array([0.8]))
    matrix, y = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), jnp.array([0.6, -0.4])
    step = reverse.ddpm(reverse.optimal_variance(reverse.normal_spread(0.8)))

    def denoise(x_t, level):
        prediction, gain = law.denoiser()(x_t, level), jnp.minimum(level.sigma / level.alpha, 1e5)
        slip = jnp.where(gain > 3, 0.1 * gain, 0.0) * (jnp.array(error) @ x_t)
        return prediction._replace(x_0=prediction.x_0 + slip - jax.lax.stop_gradient(slip))

    seen = particles.measurement(operators.matrix(matrix), y, 0.02)
    run = jax.jit(jax.vmap(lambda key: cloud_of(key, 200, seen, step, LEVELS, denoise, (3,))))
    found = run(jax.random.split(jax.random.key(0), 20))
    mean, deviation = relative(found.log_evidence, law.evidence(matrix, y, 0.02))
    assert abs(mean - 1) < 3 * deviation < 0.3
    assert found.ess[:, -1].min() > 50


def test_the_twist_is_exact_for_normal_data_of_any_covariance():
    """p(y | x_t) and, at the level below, A dx_0 / dx_s and A V A^T, from V^-1 = C^-1 + (alpha / sigma)^2 I."""
    rng = np.random.default_rng(0)
    root, matrix = rng.standard_normal((2, 3, 3))
    C, x_t, y = root @ root.T + 0.2 * np.eye(3), *rng.standard_normal((2, 3))
    denoise = GaussianMixture(jnp.ones(1), jnp.array([[0.5, -0.3, 0.1]]), covariances=jnp.asarray(C[None])).denoiser()
    now, then = schedule.at(LEVELS, 4), schedule.at(LEVELS, 2)
    potential = particles.measurement(operators.matrix(jnp.asarray(matrix)), jnp.asarray(y), NOISE)

    @jax.jit
    def look(x_t):
        found = potential.evaluate(denoise, x_t, now, True)
        return found, _ahead(found.seen, now, then)

    found, (rows, spread) = look(jnp.asarray(x_t, jnp.float32))
    above, below = (np.linalg.inv(np.linalg.inv(C) + (at.alpha / at.sigma) ** 2 * np.eye(3)) for at in (now, then))
    covariance = NOISE**2 * np.eye(3) + matrix @ above @ matrix.T
    want = stats.multivariate_normal.logpdf(y, matrix @ np.asarray(found.targets[0].x_0), covariance)
    np.testing.assert_allclose(found.log_twist, want, rtol=1e-3)
    mixing, spread = np.asarray(found.seen.mixing), np.asarray(spread)
    np.testing.assert_allclose(mixing @ rows, matrix @ below * (then.alpha / then.sigma**2), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(mixing * spread @ mixing.T, matrix @ below @ matrix.T, rtol=2e-3, atol=2e-3)


# Not dpm_solver(3, 1.0): the weights of its extrapolated steps have so long a tail that no few hundred runs see it.
LAWS = {
    "ddpm": reverse.ddpm(),
    "ddpm-large": reverse.ddpm("large"),
    "ddim": reverse.ddim(0.6),
    "dpm-1-sde": reverse.dpm_solver(1, 0.7),
    "dpm-2m-sde": reverse.dpm_solver(2, 1.0),
    "reverse-sde": reverse.reverse_sde(0.9),
}


# Of each kind of step one is fast: the others are the same formula with another variance or order.
FAST = {"ddpm", "ddim", "dpm-1-sde", "reverse-sde"}


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LAWS])
def test_weights_are_exact_for_the_law_of_each_step(name):
    """However coarse the steps: E[p(y | x_0)] over x_0 as the step draws it, by particles and by `sampler.sample`."""
    levels = schedule.NoiseLevel(*(column[:7] for column in schedule.respace(schedule.cosine(1000), 8)))
    denoise, step = MIXTURE.denoiser(), LAWS[name]

    def plain(key):
        x_T = levels.sigma[-1] * jax.random.normal(jax.random.fold_in(key, 1), (2,))
        return normalised(sampler.sample(key, denoise, step, x_T, levels), None)

    @jax.jit
    def run(keys, others):
        by_weights = jax.vmap(lambda key: cloud_of(key, 32, SEEN, step, levels).log_evidence)(keys)
        return by_weights, jax.vmap(plain)(others)

    found, alone = run(jax.random.split(jax.random.key(0), 600), jax.random.split(jax.random.key(1), 40_000))
    want = special.logsumexp(alone) - np.log(len(alone))
    (mean, error), (_, beside) = relative(found, want), relative(alone, want)
    assert abs(mean - 1) < 2.5 * np.hypot(error, beside), (mean, error, beside)
    assert np.hypot(error, beside) < 0.03


def test_the_steps_that_draw_from_a_normal_law_say_so():
    table = schedule.cosine(1000)
    silent = {name for name, row in STEPPERS.items() if row.noisy and row.make(table).law is None}
    assert silent == {"heun-churned", "dpm-2s-sde", "annealed-langevin", "training-free", "predictor-corrector"}
    assert not [name for name, row in STEPPERS.items() if not row.noisy and row.make(table).law is not None]


def test_the_log_ratio_is_that_of_the_densities():
    rng = np.random.default_rng(0)
    mean, other, noise = rng.standard_normal((3, 5))
    wide, narrow = rng.uniform(0.3, 2, (2, 5))
    laws = [forward.Normal(jnp.asarray(m), jnp.asarray(v)) for m, v in ((mean, wide), (other, narrow))]
    x = other + np.sqrt(narrow) * noise
    want = stats.norm.logpdf(x, mean, np.sqrt(wide)) - stats.norm.logpdf(x, other, np.sqrt(narrow))
    np.testing.assert_allclose(_log_ratio(*laws, jnp.asarray(noise)), want.sum(), rtol=1e-4, atol=1e-5)
    still = [law._replace(variance=jnp.zeros(())) for law in laws]
    assert _log_ratio(*still, jnp.asarray(noise)) == 0


# --- laws ------------------------------------------------------------------------------------------------------------


def shares(found):
    """The weight at each component of the mixture."""
    nearest = jnp.argmin(jnp.sum(jnp.square(found.x_0[:, None] - MIXTURE.means[None]), -1), 1)
    return jnp.zeros(4).at[nearest].add(jnp.exp(found.log_weights))


def test_posteriors_rewards_and_their_evidence():
    """Of the mixture: the posterior given y; tilted by exp(strength a x), whose modes keep their widths and move.

    The plain twist is given a y of more noise: of the precise one 4000 examples of it do not find the modes.
    """
    tilt, strength, noise = jnp.array([0.8, -0.5]), 1.5, {"measurement": NOISE, "twisted": 0.8}

    def twisted(key, tilts):
        log_prob = lambda x, level: jnp.where(tilts, strength * tilt @ x, normalised(x, level, 0.8))  # noqa: E731
        return cloud_of(key, 4000, particles.twisted(log_prob), reverse.ddpm(), FINE)

    @jax.jit
    def run(key):
        steered = particles.reward(lambda x_0: tilt @ x_0, strength, every=5)
        both = jax.vmap(twisted, in_axes=(None, 0))(key, jnp.array([False, True]))
        given = {"measurement": SEEN, "reward": steered}
        return {
            **{name: cloud_of(key, 4000, p, reverse.ddpm(), FINE) for name, p in given.items()},
            "twisted": jax.tree.map(lambda leaf: leaf[0], both),
            "twisted reward": jax.tree.map(lambda leaf: leaf[1], both),
        }

    found = run(jax.random.key(0))
    slope = strength * tilt
    power = jnp.square(MIXTURE.stds)
    tilted = jnp.log(MIXTURE.weights) + MIXTURE.means @ slope + power * jnp.sum(slope**2) / 2
    means = MIXTURE.means + power[:, None] * slope[None]
    for name, cloud in found.items():
        weights, places, evidence = jax.nn.softmax(tilted), means, special.logsumexp(tilted)
        if name in noise:
            posterior, evidence = (f(MATRIX, Y, noise[name]) for f in (MIXTURE.posterior, MIXTURE.evidence))
            weights, places = posterior.weights, posterior.means
        np.testing.assert_allclose(shares(cloud), weights, atol=0.035, err_msg=name)
        np.testing.assert_allclose(cloud.log_evidence, evidence, atol=0.06, err_msg=name)
        np.testing.assert_allclose(jnp.exp(cloud.log_weights) @ cloud.x_0, weights @ places, atol=0.06, err_msg=name)
    assert found["measurement"].ess.mean() > 3000


def test_a_noisy_classifier_is_the_twist_of_its_class():
    """Of scale 1 every run of 16 finds p(label), almost without a weight; of scale 0.1 the mean of p(label | x_0)^0.1."""

    @jax.jit
    @jax.vmap
    def run(key, scale):
        seen = particles.classifier(lambda x, level: MIXTURE.log_prob(1)(x, level), scale)
        return cloud_of(key, 16, seen, reverse.ddpm(), FINE)

    found = run(jax.random.split(jax.random.key(0), 150), jnp.repeat(jnp.array([1.0, 0.1]), 75))
    evidence = np.exp(np.asarray(found.log_evidence, np.float64))
    x_0 = jax.jit(jax.vmap(MIXTURE.sample))(jax.random.split(jax.random.key(1), 20_000))
    clean = schedule.at(FINE, 0)
    powers = jax.jit(jax.vmap(lambda x: jnp.exp(0.1 * MIXTURE.log_prob(1)(x, clean))))(x_0)
    np.testing.assert_allclose(evidence[:75].mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(evidence[75:].mean(), powers.mean(), atol=0.02)
    assert found.ess[75:].mean() > 14
    assert evidence[:75].std() < 0.1
    assert found.ess[:75].mean() > 14
    weights = jax.jit(jax.vmap(shares))(jax.tree.map(lambda leaf: leaf[:75], found)).mean(0)
    np.testing.assert_allclose(weights, [0, 0, 0.6, 0.4], atol=0.06)


def test_corrected_reaches_the_tilted_law_where_guidance_reaches_another(monkeypatch):
    """p = N(0, 2), p(. | c) = N(0, 1): the product has variance 2 / (1 + g); DDIM ends at 2^(1 - g), DDPM elsewhere."""
    levels, scales = schedule.respace(schedule.cosine(1000), 250), np.array([2.0, 3.0])
    u, c = BROAD.denoiser(), NARROW.denoiser()

    def run(given):
        key, scale = given
        cloud = cloud_of(key, 40_000, particles.corrected(u, c, scale), reverse.ddpm("large"), levels, u, (1,))
        return jnp.exp(cloud.log_weights) @ jnp.square(cloud.x_0[:, 0]), cloud.log_evidence

    # One after the other: under vmap both are resampled at every step.
    one_by_one = jax.jit(lambda keys, scales: jax.lax.map(run, (keys, scales)))
    corrected, log_evidence = one_by_one(jax.random.split(jax.random.key(0)), jnp.asarray(scales))
    np.testing.assert_allclose(corrected, 2 / (1 + scales), rtol=0.02)
    # The integral of N(x; 0, 2)^(1 - g) N(x; 0, 1)^g.
    want = (scales - 1) / 2 * np.log(2) + np.log(2 / (1 + scales)) / 2
    np.testing.assert_allclose(log_evidence, want, atol=0.02)
    for step, law in ((reverse.ddim(), ODE), (reverse.ddpm(), SDE)):
        guided = lambda scale, step=step: (step, guidance.classifier_free(c, u, scale))  # noqa: E731
        np.testing.assert_allclose(variance_reached(guided, scales, levels, monkeypatch), law(scales), rtol=0.04)


# --- rules -----------------------------------------------------------------------------------------------------------


def test_systematic_resampling_takes_each_as_often_as_its_weight_says():
    weights = np.array([0.26, 0.0, 0.5, 0.04, 0.2, 0.0])
    take = jax.jit(jax.vmap(lambda key: clouds.systematic(key, jnp.log(jnp.asarray(weights)))))
    chosen = np.asarray(take(jax.random.split(jax.random.key(0), 2000)))
    counts = (chosen[:, :, None] == np.arange(6)).sum(1)
    assert np.all(counts >= np.floor(6 * weights))
    assert np.all(counts <= np.ceil(6 * weights))
    np.testing.assert_allclose(counts.mean(0), 6 * weights, atol=0.05)
    assert np.all(np.diff(chosen, axis=1) >= 0)
    one = particles.Cloud(jnp.arange(6.0), jnp.log(jnp.asarray(weights)), jnp.zeros(()), jnp.ones(1))
    np.testing.assert_array_equal(particles.resample(jax.random.key(0), one), chosen_of(one))


def chosen_of(cloud):
    return cloud.x_0[clouds.systematic(jax.random.key(0), cloud.log_weights)]


def test_threshold_chunk_and_problems():
    """0 never resamples, 1 always does; a problem alone and in chunks is as it is under vmap, with its own numbers."""

    def run(key, y, noise, threshold=0.5, chunk=None):
        seen = particles.measurement(operators.matrix(MATRIX), y, noise)
        return cloud_of(key, 10, seen, reverse.ddpm(), threshold=threshold, chunk=chunk)

    keys, ys, noises = (
        jax.random.split(jax.random.key(0), 3),
        jnp.array([[0.6], [-0.2], [1.0]]),
        jnp.array([0.3, 0.1, 0.5]),
    )
    together = jax.jit(jax.vmap(run, in_axes=(0, 0, 0, None)))
    plain, never, always = (together(keys, ys, noises, threshold) for threshold in (0.5, 0.0, 1.0))
    alone = jax.jit(lambda *given: jax.lax.map(lambda each: run(*each, chunk=4), given))(keys, ys, noises)
    for one, other in zip(plain, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(special.logsumexp(plain.log_weights, axis=1), 0, atol=1e-5)
    assert plain.ess.shape == (3, 8)
    assert np.all((plain.ess >= 1 - 1e-5) & (plain.ess <= 10 + 1e-4))
    assert all(len(np.unique(each)) == 10 for each in never.x_0[:, :, 0])
    assert np.all(np.diff(never.ess[:, :-1], axis=1).min(1) < 0)
    assert always.ess.mean() > never.ess.mean()


def test_the_same_bits_on_any_number_of_devices():
    """One problem a device at a time."""
    run, keys = lambda key: cloud_of(key, 12, SEEN, reverse.ddim(0.6)), jax.random.split(jax.random.key(0), 8)
    found = []
    for count in (1, 2, 8):
        together = replicated.parallel_map(run, devices.choose_devices(count, count), in_axes=(0,))
        parts = [together(keys[i : i + count]) for i in range(0, 8, count)]
        found.append(jax.tree.map(lambda *rows: np.concatenate(rows), *parts))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_last_step_does_not_shift_what_it_cannot_move():
    """One step into the clean level: x_0 is the unguided prediction, and its weight p(y | x_0)."""
    levels = schedule.NoiseLevel(*(column[np.array([0, 500])] for column in schedule.cosine(1000)))
    x_T = jax.random.normal(jax.random.key(0), (5, 2))
    denoise, top = MIXTURE.denoiser(), schedule.at(levels, 1)
    sample = lambda key, x_T, seen: particles.sample(key, denoise, reverse.ddpm(), x_T, levels, seen, 0)  # noqa: E731
    run = jax.jit(lambda key, x_T: [sample(key, x_T, seen) for seen in (SEEN, particles.twisted(normalised))])
    x_0 = jax.jit(jax.vmap(lambda x: denoise(x, top).x_0))(x_T)
    log_probs = jax.jit(jax.vmap(lambda x: normalised(x, None)))(x_0)
    for cloud in run(jax.random.key(1), x_T):
        np.testing.assert_allclose(cloud.x_0, x_0, atol=1e-5)
        np.testing.assert_allclose(cloud.log_weights, jax.nn.log_softmax(log_probs), atol=1e-4)
        np.testing.assert_allclose(cloud.log_evidence, special.logsumexp(log_probs) - np.log(5), atol=1e-4)


def test_what_is_impossible_has_no_weight_and_no_nan():
    right = particles.reward(lambda x_0: jnp.where(x_0[0] > 0, 0.0, -jnp.inf))
    never = particles.reward(lambda x_0: -jnp.inf * jnp.ones(()))
    run = jax.jit(lambda key: [cloud_of(key, 300, each, reverse.ddpm()) for each in (right, never)])
    some, none = run(jax.random.key(0))
    assert np.all(some.x_0[np.exp(some.log_weights) > 0, 0] > 0)
    assert none.log_evidence == -np.inf
    np.testing.assert_allclose(none.log_weights, -np.log(300), rtol=1e-5)
    assert np.all(np.isfinite(none.x_0))


def test_a_reward_every_few_steps_is_computed_only_then():
    """Of 8 steps, every 3: after 0, 3 and 6 of them, and at the end."""
    made = []

    def count(x_0):
        jax.debug.callback(lambda _: made.append(1), x_0)
        return jnp.sum(x_0)

    run = jax.jit(lambda key: cloud_of(key, 2, particles.reward(count, every=3), reverse.ddpm()))
    jax.block_until_ready(run(jax.random.key(0)))
    jax.effects_barrier()
    assert len(made) == 2 * (3 + 1)


def test_wrong_use_is_refused():
    key = jax.random.key(0)
    for step in (reverse.ddim(), reverse.heun(), reverse.dpm_solver(2)):
        with pytest.raises(ValueError, match="does not draw from a normal law"):
            cloud_of(key, 4, SEEN, step)
    with pytest.raises(ValueError, match="noise_std is 0"):
        particles.measurement(operators.matrix(MATRIX), Y, 0)
    with pytest.raises(ValueError, match="every is 0"):
        particles.reward(jnp.sum, every=0)
    with pytest.raises(ValueError, match="give a JAX key"):
        particles.sample(0, MIXTURE.denoiser(), reverse.ddpm(), jnp.zeros((4, 2)), LEVELS, SEEN)
    for broken in (
        lambda: particles.corrected(BROAD.denoiser(), NARROW.denoiser(), jnp.ones(2)),
        lambda: particles.reward(jnp.sum, jnp.ones(2)),
    ):
        with pytest.raises(ValueError, match="is one number for one example"):
            broken()


def test_on_cpu_matrices_are_decomposed_one_by_one():
    """A batch is handed to XLA's threads by one of them, which waits: on two cores two batches wait for ever."""
    seen = particles.measurement(operators.matrix(jnp.array([[1.0, 0.5], [0.0, 1.0]])), jnp.array([0.6, 0.1]), NOISE)
    text = jax.jit(lambda key: cloud_of(key, 64, seen, reverse.ddpm()).x_0).lower(jax.random.key(0)).as_text()
    calls = [line for line in text.splitlines() if "@lapack_" in line]
    assert len(calls) >= 4  # two bases and two factors at least
    assert not [line for line in calls if "tensor<64x" in line]
