"""Inverse problems: guidance against posteriors in closed form, of normal data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, operators, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.prediction import Prediction
from tests.oracle import SCHEDULES

SHAPE = (4, 6, 2)
SIZE = int(np.prod(SHAPE))
OBSERVED = (jax.random.uniform(jax.random.key(9), SHAPE) < 0.4).astype(jnp.float32)


def compiled(operator):
    """The operator, whose parts are a program each, and not one for each of their operations."""
    return operators.Operator(*map(jax.jit, operator))


OPERATORS = {
    "mask": operators.mask(OBSERVED),
    "weights": operators.mask(jax.random.uniform(jax.random.key(8), SHAPE, minval=0.3)),
    "average_pool": operators.average_pool(2),
    "gaussian_blur": operators.gaussian_blur(4, 6, 0.7),
    "separable": operators.separable(
        jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (7, 6))
    ),
    "matrix": operators.matrix(jax.random.normal(jax.random.key(7), (5, SIZE)), SHAPE),
}
OPERATORS = {name: compiled(operator) for name, operator in OPERATORS.items()}
operators_given = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)

# The prior: normal, with a mean that is no constant. The oracle's denoiser of it is exact.
MEAN, STD, NOISE = jnp.sin(jnp.arange(SIZE, dtype=jnp.float32)).reshape(SHAPE), 0.6, 0.3
PRIOR = GaussianMixture(jnp.ones(1), MEAN[None], jnp.array([STD]))
TRUTH = MEAN + STD * jax.random.normal(jax.random.key(2), SHAPE)


@functools.cache
def matrix(operator):
    """A as a float64 matrix, column by column."""
    columns = jax.jit(jax.vmap(operator.forward))(jnp.eye(SIZE).reshape(SIZE, *SHAPE))
    return np.asarray(columns.reshape(SIZE, -1), np.float64).T


def measure(operator, noise=NOISE):
    y = operator.forward(TRUTH)
    error = noise * jax.random.normal(jax.random.key(3), y.shape)
    return y + (error * OBSERVED if operator is OPERATORS["mask"] else error)


def posterior(operator, y, noise, extra=None):
    """Mean and covariance of x_0 given y and, if given, x_t = alpha x_0 + sigma eps, by solving the normal equations."""
    a = matrix(operator)
    precision, right = np.eye(SIZE) / STD**2, np.asarray(MEAN, np.float64).reshape(-1) / STD**2
    precision, right = precision + a.T @ a / noise**2, right + a.T @ np.asarray(y, np.float64).reshape(-1) / noise**2
    if extra is not None:
        x_t, alpha, sigma = (np.asarray(part, np.float64) for part in extra)
        precision = precision + np.eye(SIZE) * alpha**2 / sigma**2
        right = right + alpha / sigma**2 * x_t.reshape(-1)
    return np.linalg.solve(precision, right), np.linalg.inv(precision)


# --- denoisers -------------------------------------------------------------------------------------------------------


@functools.cache
def compiled_pigdm(operator):
    """(x_t, level, y) -> the prediction: one program for every level."""
    return jax.jit(lambda x_t, level, y: guidance.pigdm(PRIOR.denoiser(), operator, y, NOISE, STD)(x_t, level))


@operators_given
@pytest.mark.parametrize(
    ("name", "position"), [("cosine", 1), ("cosine", 400), ("cosine", 990), ("karras", 3), ("karras", -1)]
)
def test_pigdm_is_the_exact_posterior_mean_of_normal_data(operator, name, position):
    """E[x_0 | x_t, y] at every level, for every operator; and eps explains the same x_t."""
    level, y = schedule.at(SCHEDULES[name], position), measure(operator)
    x_t = level.alpha * TRUTH + level.sigma * jax.random.normal(jax.random.key(4), SHAPE)
    found = compiled_pigdm(operator)(x_t, level, y)
    want, _ = posterior(operator, y, NOISE, (x_t, level.alpha, level.sigma))
    np.testing.assert_allclose(found.x_0.reshape(-1), want, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, rtol=1e-4, atol=1e-4)


@operators_given
def test_pigdm_without_noise_agrees_with_the_measurement(operator):
    """noise_std = 0: A x_0 is y, whatever the level; a blur's lost frequencies excepted."""
    level, y = schedule.at(SCHEDULES["cosine"], 300), operator.forward(TRUTH)
    x_t = level.alpha * TRUTH + level.sigma * jax.random.normal(jax.random.key(4), SHAPE)
    found = jax.jit(guidance.pigdm(PRIOR.denoiser(), operator, y, 0.0, STD))(x_t, level)
    np.testing.assert_allclose(operator.forward(found.x_0), y, atol=5e-3)


def reached(draw, levels):
    """Mean and covariance of x_0 over x_T ~ N(0, sigma_T^2), exactly: for normal data the map is affine."""
    basis = jnp.concatenate([jnp.zeros((1, SIZE)), jnp.eye(SIZE)]).reshape(-1, *SHAPE)
    x_0 = np.asarray(jax.jit(jax.vmap(draw))(basis), np.float64).reshape(-1, SIZE)
    slope = (x_0[1:] - x_0[:1]) * float(levels.sigma[-1])
    return x_0[0], slope.T @ slope


@pytest.mark.parametrize("name", ["mask", "average_pool", "gaussian_blur"])
def test_samples_of_pigdm_are_the_posterior(name):
    operator, levels = OPERATORS[name], schedule.karras(300, 0.002, 80.0)
    y = measure(operator)
    denoise = guidance.pigdm(PRIOR.denoiser(), operator, y, NOISE, STD)
    mean, covariance = reached(lambda x: sampler.sample(jax.random.key(0), denoise, reverse.ddim(), x, levels), levels)
    want_mean, want_covariance = posterior(operator, y, NOISE)
    np.testing.assert_allclose(mean, want_mean, atol=0.02)
    np.testing.assert_allclose(covariance, want_covariance, atol=0.02 * STD**2)


def test_the_likelihood_at_the_prediction_is_overconfident():
    """`universal` leaves out that x_0 itself is uncertain (V A A^T), so it is PiGDM at V = 0 only."""
    operator, levels = OPERATORS["average_pool"], schedule.karras(300, 0.002, 80.0)
    y = measure(operator)
    criterion = guidance.likelihood(operator, y, NOISE)
    denoise = guidance.universal(PRIOR.denoiser(), criterion, 1.0)
    _, covariance = reached(lambda x: sampler.sample(jax.random.key(0), denoise, reverse.ddim(), x, levels), levels)
    _, want = posterior(operator, y, NOISE)
    a = matrix(operator)
    observed, exact = np.trace(a @ covariance @ a.T), np.trace(a @ want @ a.T)
    assert observed < 0.9 * exact
    level, x_t = schedule.at(schedule.cosine(1000), 1), TRUTH
    slope = (operator.adjoint(y - operator.forward(x_t))) / NOISE**2
    np.testing.assert_allclose(jax.jit(jax.grad(criterion))(x_t, level), slope, rtol=1e-4, atol=1e-4)
    both = [jax.jit(denoise)(x_t, level), compiled_pigdm(operator)(x_t, level, y)]
    np.testing.assert_allclose(both[0].x_0, both[1].x_0, atol=1e-3)


# --- steps -----------------------------------------------------------------------------------------------------------


def test_dps_steps_by_the_norm_of_this_examples_residual():
    """The gradient by hand, for x_0 linear in x_t with slope J: -J A^T r / |r|, of length independent of |r|."""
    operator, levels = OPERATORS["mask"], schedule.cosine(1000)
    now, then, key = schedule.at(levels, 500), schedule.at(levels, 499), jax.random.key(0)
    x_t, step = jax.random.normal(jax.random.key(1), SHAPE), reverse.ddpm()
    slope = now.alpha * STD**2 / (now.alpha**2 * STD**2 + now.sigma**2)

    @functools.partial(jax.jit, static_argnums=1)
    def stepped(y, denoise):
        each = step, reverse.dps(step, operator, y, 0.7)
        return [one.step(key, denoise, x_t, one.init(x_t), now, then)[0] for one in each]

    prior = PRIOR.denoiser()
    x_0 = prior(x_t, now).x_0
    for stretch in (1.0, 50.0):
        y = stretch * measure(operator)
        plain, moved = stepped(y, prior)
        residual = y - operator.forward(x_0)
        want = 0.7 * slope * operator.adjoint(residual) / jnp.linalg.norm(residual)
        np.testing.assert_allclose(moved - plain, want, rtol=1e-3, atol=1e-6)
    plain, still = stepped(operator.forward(x_t / 2), lambda x, level: Prediction(x / 2, x))  # a residual of 0, exactly
    np.testing.assert_array_equal(still, plain)


def draws(step, levels, count=64):
    x_T = levels.sigma[-1] * jax.random.normal(jax.random.key(5), (count, *SHAPE))
    run = lambda key, x: sampler.sample(key, PRIOR.denoiser(), step, x, levels)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(6), count), x_T), np.float64)


def test_dps_comes_near_the_measurement_but_not_to_the_posterior():
    """Its mean moves most of the way from the prior's to the posterior's; its spread where it measured is too small."""
    operator, levels = OPERATORS["mask"], schedule.respace(schedule.cosine(1000), 250)
    y, noise = measure(operator), NOISE
    seen = np.asarray(OBSERVED, bool)
    want_mean, want_covariance = posterior(operator, y, noise)
    want_std = np.sqrt(np.diag(want_covariance)).reshape(SHAPE)[seen].mean()
    x_0 = draws(reverse.dps(reverse.ddpm(), operator, y, 0.2), levels)
    off = np.abs(x_0.mean(0)[seen] - want_mean.reshape(SHAPE)[seen]).mean()
    start = np.abs(np.asarray(MEAN)[seen] - want_mean.reshape(SHAPE)[seen]).mean()
    assert off < 0.75 * start
    assert x_0.std(0)[seen].mean() < 0.3 * want_std  # it fits the noise of y: nothing in it knows of that
    np.testing.assert_allclose(x_0.std(0)[~seen].mean(), STD, rtol=0.1)  # what was not measured keeps its prior


def test_repaint_keeps_the_known_part_and_fits_the_rest_by_repeating():
    """Two modes on a diagonal: the known coordinate says which. One pass often paints the other mode's, ten seldom."""
    modes = GaussianMixture(jnp.ones(2), jnp.array([[-1.0, -1.0], [1.0, 1.0]]), jnp.array([0.15, 0.15]))
    levels, observed, x_0 = schedule.respace(schedule.cosine(1000), 40), jnp.array([True, False]), jnp.array([1.0, 9.0])
    x_T = jax.random.normal(jax.random.key(0), (500, 2))
    wrong = []
    for repeats in (1, 10):
        step = reverse.repaint(reverse.ddpm(), observed, x_0, repeats)
        run = lambda key, x, step=step: sampler.sample(key, modes.denoiser(), step, x, levels)  # noqa: E731
        painted = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 500), x_T)
        np.testing.assert_array_equal(painted[:, 0], 1.0)
        wrong.append(float(jnp.mean(painted[:, 1] < 0)))
        assert jnp.all(jnp.abs(jnp.abs(painted[:, 1]) - 1) < 1.2)
    assert wrong[1] < 0.6 * wrong[0]
    assert wrong[1] < 0.1
    with pytest.raises(ValueError, match="repeats is 0"):
        reverse.repaint(reverse.ddpm(), observed, x_0, 0)


def test_repaint_noises_the_known_part_to_the_level_it_goes_to(monkeypatch):
    levels = schedule.cosine(1000)
    now, then, x_t = schedule.at(levels, 500), schedule.at(levels, 480), jax.random.normal(jax.random.key(1), SHAPE)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, 0.5, dtype))
    step = reverse.repaint(reverse.ddim(), OBSERVED, TRUTH, 1)
    each = step, reverse.ddim()
    x_s, plain = jax.jit(
        lambda x_t: [one.step(jax.random.key(0), PRIOR.denoiser(), x_t, (), now, then)[0] for one in each]
    )(x_t)
    seen = np.asarray(OBSERVED, bool)
    np.testing.assert_allclose(x_s[seen], (then.alpha * TRUTH + then.sigma * 0.5)[seen], rtol=1e-5)
    np.testing.assert_allclose(x_s[~seen], plain[~seen], rtol=1e-5)


STEPS = {
    "dps": lambda y: reverse.dps(reverse.ddim(0.5), OPERATORS["mask"], y * OBSERVED, 0.5),
    "repaint": lambda y: reverse.repaint(reverse.ddpm("large"), OBSERVED, y, 2),
    "pigdm": lambda y: reverse.with_state(
        guidance.stateless(guidance.pigdm(PRIOR.denoiser(), OPERATORS["mask"], y * OBSERVED, 0.1, STD)),
        reverse.ddim(0.5),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_batch_mate_changes_no_picture(name):
    """Not even the length of a residual is shared."""
    levels = schedule.respace(schedule.cosine(1000), 5)
    run = jax.jit(jax.vmap(lambda key, x, y: sampler.sample(key, PRIOR.denoiser(), STEPS[name](y), x, levels)))
    keys, x_T, y = jax.random.split(jax.random.key(0), 3), jnp.zeros((3, *SHAPE)), jnp.stack([TRUTH, -TRUTH, MEAN])
    whole = run(keys, x_T, y)
    assert jnp.all(jnp.isfinite(whole))
    other = run(keys, x_T.at[1:].set(30.0), y.at[1:].set(-40.0))
    np.testing.assert_array_equal(other[0], whole[0])
    assert jnp.abs(other[1] - whole[1]).max() > 1


@pytest.mark.parametrize(("name", "calls"), [("dps", 2), ("repaint", 1)])
def test_calls_of_the_network(name, calls):
    """DPS: one forward and one backward pass; RePaint: one call in a loop of `repeats`. The network knows a label."""

    def run(params, table, key, x_T, y, label):
        def denoise(x_t, level):
            hidden = jnp.fft.rfft((x_t + table[label]).reshape(-1) * params).real
            return PRIOR.denoiser()(x_t, level)._replace(x_0=jnp.resize(hidden, SHAPE))

        return sampler.sample(key, denoise, STEPS[name](y), x_T, schedule.respace(schedule.cosine(1000), 5))

    arguments = (jnp.ones(()), jnp.ones(4), jax.random.split(jax.random.key(0), 3), jnp.zeros((3, *SHAPE)))
    batched = jax.jit(jax.vmap(run, (None, None, 0, 0, 0, 0)))
    text = batched.lower(*arguments, jnp.stack([TRUTH] * 3), jnp.arange(3)).compile().as_text()
    assert text.count(" fft(") == calls
