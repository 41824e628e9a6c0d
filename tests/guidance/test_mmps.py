"""MMPS against posteriors in closed form: normal data of any covariance, any matrix, any linear decoder.

The prior is N(m, U diag(s) U^T) with correlations, for which PiGDM, that knows one number of it, is wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, operators, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.models.ops.convolution import conv_general_dilated
from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction

SHAPE, SIZE, NOISE = (2, 3, 1), 6, 0.2
RNG = np.random.default_rng(0)
VECTORS, _ = np.linalg.qr(RNG.standard_normal((SIZE, SIZE)))
VARIANCES = np.array([1.5, 0.8, 0.4, 0.1, 0.03, 0.01])
COVARIANCE = VECTORS @ np.diag(VARIANCES) @ VECTORS.T
MEAN = np.sin(np.arange(SIZE))
TRUTH = MEAN + VECTORS @ (np.sqrt(VARIANCES) * RNG.standard_normal(SIZE))
DENSE, DECODER = RNG.standard_normal((3, SIZE)), 0.3 * RNG.standard_normal((8, SIZE))
MASK = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]).reshape(SHAPE)
OPERATORS = {
    "matrix": operators.matrix(jnp.asarray(DENSE, jnp.float32), SHAPE),
    "mask": operators.mask(MASK),
    "blur": operators.gaussian_blur(2, 3, 0.6),
    "decoder": operators.through(
        operators.mask(jnp.arange(8) < 5), lambda x: jnp.asarray(DECODER, jnp.float32) @ x.reshape(-1)
    ),
}
operators_given = pytest.mark.parametrize("name", OPERATORS)
PLACES = [
    schedule.at(levels, position)
    for levels, positions in {
        "VP": (schedule.cosine(1000), (1, 100, 400, 800, 990)),
        "VE": (schedule.karras(40, 0.01, 20.0), (1, 12, 30, -1)),
        "flow": (schedule.flow(1000), (1, 100, 500, 990)),
    }.values()
    for position in positions
]
LEVELS = schedule.NoiseLevel(*(jnp.stack(column) for column in zip(*PLACES, strict=True)))
ENDS = schedule.NoiseLevel(jnp.array([0.0, 1000.0]), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
EPS = RNG.standard_normal(SHAPE).astype(np.float32)
X_T = jax.vmap(lambda level: level.alpha * TRUTH.reshape(SHAPE) + level.sigma * EPS)(LEVELS)


def normal(x_t, level):
    """E[x_0 | x_t] and E[eps | x_t] of the prior."""
    vectors, variances = jnp.asarray(VECTORS, jnp.float32), jnp.asarray(VARIANCES, jnp.float32)
    offset = vectors.T @ (x_t.reshape(-1) - level.alpha * jnp.asarray(MEAN, jnp.float32))
    total = level.alpha**2 * variances + level.sigma**2
    x_0 = jnp.asarray(MEAN, jnp.float32) + vectors @ (level.alpha * variances / total * offset)
    return Prediction(x_0.reshape(SHAPE), (vectors @ ratio(level.sigma * offset, total)).reshape(SHAPE))


def matrix(operator):
    """A as a float64 matrix, column by column."""
    columns = jax.vmap(operator.forward)(jnp.eye(SIZE).reshape(SIZE, *SHAPE))
    return np.asarray(columns.reshape(SIZE, -1), np.float64).T


def measure(operator, noise=NOISE):
    """Return A x_true + noise, with noise where there is a measurement."""
    y = operator.forward(jnp.asarray(TRUTH.reshape(SHAPE), jnp.float32))
    seen = np.abs(matrix(operator)).sum(1).reshape(y.shape) > 0
    return y + noise * seen * jax.random.normal(jax.random.key(3), y.shape)


def posterior(a, y, noise, level=None, x_t=None):
    """Mean and covariance of x_0 given y and, if given, x_t, by the normal equations in float64."""
    prior = np.linalg.inv(COVARIANCE)
    precision = prior + a.T @ a / noise**2
    right = prior @ MEAN + a.T @ np.asarray(y, np.float64).reshape(-1) / noise**2
    if level is not None:
        alpha, sigma = float(level.alpha), float(level.sigma)
        precision = precision + np.eye(SIZE) * alpha**2 / sigma**2
        right = right + alpha / sigma**2 * np.asarray(x_t, np.float64).reshape(-1)
    return np.linalg.solve(precision, right), np.linalg.inv(precision)


def everywhere(operator, y, noise, iterations, levels=LEVELS, x_t=X_T, denoise=normal):
    """Predictions at all levels; the number of iterations is traced."""

    def at(iterations, level, x):
        return guidance.mmps(denoise, operator, y, noise, iterations)(x, level)

    return jax.jit(jax.vmap(at, (None, 0, 0)))(iterations, levels, x_t)


@operators_given
def test_as_many_iterations_as_measurements_are_the_exact_posterior_mean(name):
    """E[x_0 | x_t, y] at every level of VP, VE and flow; and eps explains the same x_t. One iteration is not enough."""
    operator, y = OPERATORS[name], measure(OPERATORS[name])
    a = matrix(operator)
    rank = np.linalg.matrix_rank(a)
    found = everywhere(operator, y, NOISE, rank)
    want = np.stack([posterior(a, y, NOISE, *place)[0] for place in zip(PLACES, X_T, strict=True)])
    np.testing.assert_allclose(found.x_0.reshape(len(PLACES), SIZE), want, rtol=2e-3, atol=2e-3)
    alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in LEVELS[1:])
    np.testing.assert_allclose(alpha * found.x_0 + sigma * found.eps, X_T, rtol=1e-4, atol=2e-4)
    once = everywhere(operator, y, NOISE, 1).x_0.reshape(len(PLACES), SIZE)
    assert np.abs(once - want).max() > 0.05
    more = everywhere(operator, y, NOISE, 50)  # converged: stays
    np.testing.assert_allclose(more.x_0, found.x_0, rtol=2e-3, atol=2e-3)


def test_behind_a_decoder_of_unequal_gains_pigdm_is_worse_than_no_guidance():
    """Its one gain is the mean of those of the decoder, which are 0 to 1.7; its data_std that of the latents."""
    operator, y = OPERATORS["decoder"], measure(OPERATORS["decoder"])
    one_gain = operator._replace(
        solve=lambda y, gain, noise: ratio(y, gain * np.square(DECODER).sum() / len(DECODER) + noise)
    )
    std = float(np.sqrt(VARIANCES.mean()))
    found = {
        "none": jax.vmap(normal)(X_T, LEVELS),
        "pigdm": jax.jit(jax.vmap(guidance.pigdm(normal, one_gain, y, NOISE, std)))(X_T, LEVELS),
        "mmps": everywhere(operator, y, NOISE, 5),
    }
    want = np.stack([posterior(matrix(operator), y, NOISE, *place)[0] for place in zip(PLACES, X_T, strict=True)])
    off = {name: np.sqrt(np.square(each.x_0.reshape(want.shape) - want).mean()) for name, each in found.items()}
    assert off["mmps"] < 1e-3 < off["none"] < off["pigdm"], off


@pytest.mark.parametrize("name", ["matrix", "mask", "decoder"])
def test_without_noise_the_prediction_agrees_with_the_measurement(name):
    """noise_std = 0: A x_0 is y at every level, also where A A^T is singular; both ends stay finite."""
    operator, y = OPERATORS[name], measure(OPERATORS[name], 0.0)
    found = everywhere(operator, y, 0.0, 12)
    np.testing.assert_allclose(jax.vmap(operator.forward)(found.x_0), jnp.stack([y] * len(PLACES)), atol=2e-3)
    ends = everywhere(operator, y, 0.0, 12, ENDS, X_T[:2])
    assert all(jnp.isfinite(view).all() for view in (ends.x_0, ends.eps))
    np.testing.assert_allclose(ends.x_0[0], X_T[0], atol=1e-6)  # a clean x_t is x_0
    np.testing.assert_allclose(ends.x_0[1].reshape(-1), MEAN, atol=1e-6)  # of pure noise x_t says nothing, y all


def test_measurements_that_contradict_one_another_stay_finite():
    """Each row of A twice, with another y: no x_0 fits. The steps end where A V A^T has no curvature left."""
    twice = operators.matrix(jnp.asarray(np.concatenate([DENSE, DENSE]), jnp.float32), SHAPE)
    for iterations in (3, 6, 40):
        found = everywhere(twice, measure(twice), 0.0, iterations)
        assert jnp.abs(found.x_0).max() < 30
        assert jnp.isfinite(found.eps).all()


def test_a_network_whose_derivative_is_no_covariance_is_left_alone():
    """x_0 = -x_t: J is -1, in no direction of which there is a step."""
    mirror = lambda x_t, level: Prediction(-x_t, x_t)  # noqa: E731
    found = everywhere(OPERATORS["mask"], measure(OPERATORS["mask"]), 0.0, 5, denoise=mirror)
    np.testing.assert_array_equal(found.x_0, -X_T)


def test_the_result_is_differentiable_in_the_measurement():
    """dE[x_0 | x_t, y] / dy = Cov(x_0 | x_t, y) A^T / noise^2, at iterations that are no traced number."""
    operator, y = OPERATORS["matrix"], measure(OPERATORS["matrix"])
    x_0 = lambda y, level, x: guidance.mmps(normal, operator, y, NOISE, 3)(x, level).x_0  # noqa: E731
    found = jax.jit(jax.vmap(jax.jacrev(x_0), (None, 0, 0)))(y, LEVELS, X_T)
    for place, x_t, slope in zip(PLACES, X_T, found, strict=True):
        _, covariance = posterior(DENSE, y, NOISE, place, x_t)
        np.testing.assert_allclose(slope.reshape(SIZE, 3), covariance @ DENSE.T / NOISE**2, rtol=5e-3, atol=5e-3)


def test_a_decoder_of_fast_convolutions_is_guided_by():
    """These refuse forward-mode derivatives; the prediction is that of the same decoder in XLA's own convolution."""
    kernel, x_t = jax.random.normal(jax.random.key(0), (3, 3, 1, 2)), jax.random.normal(jax.random.key(1), (8, 8, 1))
    level, y = schedule.at(schedule.cosine(1000), 400), jnp.ones((4, 4, 2))
    prior = GaussianMixture(jnp.ones(1), jnp.zeros((1, 8, 8, 1)), jnp.array([0.5]))

    def guided(convolve):
        convolved = lambda x: convolve(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
        decode = lambda x: jnp.tanh(convolved(x)[0])  # noqa: E731
        operator = operators.through(operators.average_pool(2), decode)
        return jax.jit(guidance.mmps(prior.denoiser(), operator, y, 0.1))(x_t, level).x_0

    found = guided(conv_general_dilated)
    np.testing.assert_allclose(found, guided(jax.lax.conv_general_dilated), rtol=1e-3, atol=1e-3)
    assert jnp.abs(found - prior.denoiser()(x_t, level).x_0).max() > 0.1


@pytest.mark.parametrize("name", ["matrix", "mask"])
def test_samples_are_the_posterior(name):
    """Mean and covariance of x_0 over x_T ~ N(0, sigma_T^2), exactly, as the map is affine; those of PiGDM are not."""
    operator, levels = OPERATORS[name], schedule.karras(300, 0.002, 80.0)
    y = measure(operator)
    basis = jnp.concatenate([jnp.zeros((1, SIZE)), jnp.eye(SIZE)]).reshape(-1, *SHAPE)
    std = float(np.sqrt(VARIANCES.mean()))

    def reached(denoise):
        draw = lambda x: sampler.sample(jax.random.key(0), denoise, reverse.ddim(), x, levels)  # noqa: E731
        x_0 = np.asarray(jax.jit(jax.vmap(draw))(basis), np.float64).reshape(-1, SIZE)
        slope = (x_0[1:] - x_0[:1]) * float(levels.sigma[-1])
        return x_0[0], slope.T @ slope

    mean, covariance = reached(guidance.mmps(normal, operator, y, NOISE, 3))
    want_mean, want_covariance = posterior(matrix(operator), y, NOISE)
    np.testing.assert_allclose(mean, want_mean, atol=0.02)
    np.testing.assert_allclose(covariance, want_covariance, atol=0.02 * VARIANCES.max())
    mean, covariance = reached(guidance.pigdm(normal, operator, y, NOISE, std))
    assert max(np.abs(mean - want_mean).max(), np.abs(covariance - want_covariance).max()) > 0.04


@pytest.mark.parametrize("iterations", [0, -1, 2.0, jnp.array([1, 2])])
def test_iterations_are_a_whole_number(iterations):
    with pytest.raises(ValueError, match="iterations"):
        guidance.mmps(normal, OPERATORS["mask"], jnp.zeros(SHAPE), 0.1, iterations)


# 25 modes on a grid of spacing 8, each coordinate twice in turn four times, as in MCGDiff (2308.07983), unit covariance.
MODES = np.array([[8.0 * i, 8.0 * j] * 4 for i in range(-2, 3) for j in range(-2, 3)])
METHODS = {  # with the data_std and the scale, to a factor of 2, that come nearest
    "mmps": lambda denoise, operator, y: (guidance.mmps(denoise, operator, y, 0.5, 2), reverse.ddim()),
    "pigdm": lambda denoise, operator, y: (guidance.pigdm(denoise, operator, y, 0.5, 6.0), reverse.ddim()),
    "dps": lambda denoise, operator, y: (denoise, reverse.dps(reverse.ddim(), operator, y, 0.1)),
}


def problem(rng, observed, noise, count):
    """Return weights of the modes, a measurement of a draw, and exact draws of the posterior, all in float64."""
    weights = rng.chisquare(1, len(MODES))
    truth = MODES[rng.choice(len(MODES), p=weights / weights.sum())] + rng.standard_normal(8)
    y = observed * (truth + noise * rng.standard_normal(8))
    share = weights * np.exp(-np.sum((y - MODES) ** 2 * observed, 1) / (2 * (1 + noise**2)))
    chosen = MODES[rng.choice(len(MODES), count, p=share / share.sum())]
    gain = observed / (1 + noise**2)
    return weights, y, chosen + gain * (y - chosen) + np.sqrt(1 - gain) * rng.standard_normal((count, 8))


def distances(samples, exact, rng):
    """Sliced Wasserstein-1 distance of each problem, over 100 directions."""
    slices = rng.standard_normal((8, 100))
    both = (np.sort(draws @ (slices / np.linalg.norm(slices, axis=0)), 1) for draws in (samples, exact))
    return np.abs(np.subtract(*both)).mean((1, 2))


@pytest.mark.slow
def test_of_a_mixture_mmps_comes_nearer_to_the_posterior_than_pigdm_and_dps():
    """Half of the coordinates are measured; 50 DDIM steps each."""
    rng, levels, count = np.random.default_rng(0), schedule.respace(schedule.linear(1000), 50), 300
    observed = np.repeat([1.0, 0.0], 4)
    weights, y, exact = (
        np.stack(each) for each in zip(*(problem(rng, observed, 0.5, count) for _ in range(8)), strict=True)
    )

    def draw(method, weights, y, key, x_T):
        prior = GaussianMixture(weights, jnp.asarray(MODES, jnp.float32), jnp.ones(len(MODES)))
        denoise, step = METHODS[method](prior.denoiser(), operators.mask(jnp.asarray(observed)), y)
        return sampler.sample(key, denoise, step, x_T, levels)

    keys = jax.random.split(jax.random.key(0), (len(y), count))
    given = (
        jnp.asarray(weights, jnp.float32),
        jnp.asarray(y, jnp.float32),
        keys,
        jax.random.normal(keys[0, 0], exact.shape),
    )
    far = {}
    for name in METHODS:
        drawn = jax.jit(jax.vmap(jax.vmap(lambda *each, n=name: draw(n, *each), (None, None, 0, 0))))(*given)
        far[name] = distances(np.asarray(drawn), exact, np.random.default_rng(1)).mean()
    assert 2 * far["mmps"] < min(far["pigdm"], far["dps"]), far
