"""The forward process against the algebra of Gaussians in float64: q composes, and its posterior is Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import forward, schedule
from tests.oracle import SCHEDULES

PAIRS = [(1, 0), (2, 1), (7, 3), (20, 19), (39, 11), (-1, -2), (-1, 0), (-1, 1)]


def pair(levels, now, then):
    return schedule.at(levels, now), schedule.at(levels, then)


def coefficients(function):
    """The linear map and offset of a function of scalars, exactly: its values at the unit vectors."""
    zero, one = jnp.zeros(1), jnp.ones(1)
    return float(function(one, zero)[0]), float(function(zero, one)[0])


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("now", "then"), PAIRS)
def test_two_steps_of_noise_are_one(levels, now, then):
    t, s = pair(levels, now, then)
    signal, noise_s = coefficients(lambda x_0, eps: forward.diffuse(x_0, eps, s))
    kept, fresh = coefficients(lambda x_s, eps: forward.transition(x_s, eps, s, t))
    np.testing.assert_allclose(kept * signal, t.alpha, rtol=1e-6)
    np.testing.assert_allclose(np.hypot(kept * noise_s, fresh), t.sigma, rtol=1e-6)


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("now", "then"), PAIRS)
def test_posterior_is_bayes_rule(levels, now, then):
    """x_s | x_0 and x_t | x_s are Gaussian; conditioning their joint law, in float64, gives x_s | x_t, x_0."""
    t, s = pair(levels, now, then)
    alpha_t, sigma_t, alpha_s, sigma_s = (float(a) for a in (t.alpha, t.sigma, s.alpha, s.sigma))
    a = alpha_t / alpha_s
    on_x_t = a * sigma_s**2 / sigma_t**2  # cov(x_s, x_t | x_0) / var(x_t | x_0)
    mean = lambda x_t, x_0: forward.posterior(x_t, x_0, t, s).mean  # noqa: E731
    np.testing.assert_allclose(coefficients(mean), [on_x_t, alpha_s - on_x_t * alpha_t], rtol=2e-3, atol=2e-7)
    variance = forward.posterior(jnp.ones(1), jnp.ones(1), t, s).variance
    np.testing.assert_allclose(variance, sigma_s**2 - on_x_t**2 * sigma_t**2, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("now", "then"), PAIRS)
def test_posterior_of_forward_is_forward(levels, now, then):
    """Averaging q(x_s | x_t, x_0) over q(x_t | x_0) gives q(x_s | x_0): its mean and its variance."""
    t, s = pair(levels, now, then)
    on_x_t, on_x_0 = coefficients(lambda x_t, x_0: forward.posterior(x_t, x_0, t, s).mean)
    variance = float(forward.posterior(jnp.ones(1), jnp.ones(1), t, s).variance)
    np.testing.assert_allclose(on_x_t * t.alpha + on_x_0, s.alpha, rtol=1e-6)
    np.testing.assert_allclose(on_x_t**2 * t.sigma**2 + variance, s.sigma**2, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
def test_posterior_into_the_clean_level_is_x_0(levels):
    x_t, x_0 = jnp.array([3.0, -2.0]), jnp.array([0.5, 0.25])
    mean, variance = forward.posterior(x_t, x_0, schedule.at(levels, -1), schedule.at(levels, 0))
    np.testing.assert_allclose(mean, x_0, rtol=1e-6)
    assert variance == 0


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("position", [0, 1, -1, None])
def test_posterior_without_a_step_stays(levels, position):
    """At pure noise (None) too, where a corrector starts."""
    pure_noise = schedule.NoiseLevel(*(jnp.float32(value) for value in (1, 0, 1)))
    level, x = pure_noise if position is None else schedule.at(levels, position), jnp.array([3.0, -2.0])
    mean, variance = forward.posterior(x, 0 * x, level, level)
    np.testing.assert_allclose(mean, x, rtol=1e-6)
    np.testing.assert_allclose(variance, 0, atol=1e-6)


def test_pure_noise_keeps_nothing_of_x_t():
    now = schedule.NoiseLevel(jnp.float32(1), jnp.float32(0), jnp.float32(1))
    then = schedule.at(schedule.cosine(10), 4)
    mean, variance = forward.posterior(jnp.full(2, 9.0), jnp.ones(2), now, then)
    np.testing.assert_allclose(mean, then.alpha * jnp.ones(2), rtol=1e-6)
    np.testing.assert_allclose(variance, then.sigma**2, rtol=1e-6)


def test_gradients_are_finite_at_both_ends():
    levels = schedule.cosine(10)

    def total(x):
        ends = [(levels, 1, 0), (levels, -1, 0), (levels, 0, 0)]
        return sum(forward.posterior(x, x, *pair(*end)).mean.sum() for end in ends)

    assert jnp.all(jnp.isfinite(jax.grad(total)(jnp.ones(2))))
