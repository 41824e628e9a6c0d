"""Guidance that damps part of classifier-free guidance: tangential, and magnitude-aware."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, prediction, schedule
from guided_jax.prediction import from_eps
from tests.oracle import MIXTURE, SCHEDULES, points

LEVEL = schedule.at(SCHEDULES["cosine"], 400)
C, U = MIXTURE.denoiser(1), MIXTURE.denoiser()


def svd(c, u):
    """The paper's: what is left of u after the second right-singular vector of [c; u]."""
    _, _, vectors = np.linalg.svd(np.stack([c, u]), full_matrices=False)
    return vectors[0] * (vectors[0] @ u)


@pytest.mark.parametrize("gap", [3.0, 1e-1, 1e-3], ids=str)
def test_tangential_is_the_projection_by_a_singular_value_decomposition(gap):
    """In eps, of long vectors that differ much and little; x_0 is that of the same x_t."""
    random = np.random.default_rng(0)
    c = random.standard_normal((5, 40))
    u = 1.2 * c + gap * random.standard_normal((5, 40))
    x_t = random.standard_normal(40)

    def guided(c, u):
        each = [lambda x, level, eps=eps: from_eps(eps, x, level) for eps in (c, u)]
        return guidance.tangential(*each, 4.0)(jnp.float32(x_t), LEVEL)

    found = jax.jit(jax.vmap(guided))(jnp.float32(c), jnp.float32(u))
    damped = np.stack([svd(*pair) for pair in zip(c, u, strict=True)])
    assert np.abs(damped - u).max() > gap / 20
    np.testing.assert_allclose(found.eps, damped + 4 * (c - damped), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(LEVEL.alpha * found.x_0 + LEVEL.sigma * found.eps, np.tile(x_t, (5, 1)), atol=1e-4)


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_tangential_of_vectors_that_are_orthogonal(length):
    """The longer one is the singular vector: u is kept where it is longer than c, and left out where it is shorter."""
    c, u, x_t = jnp.array([1.0, 0.0]), jnp.array([0.0, length]), jnp.array([0.3, 0.4])
    each = [lambda x, level, eps=eps: from_eps(eps, x, level) for eps in (c, u)]
    found = guidance.tangential(*each, 0.0)(x_t, LEVEL)
    np.testing.assert_allclose(found.eps, u if length > 1 else jnp.zeros(2), atol=1e-6)


def test_tangential_of_predictions_that_are_nearly_the_same_is_half_the_way():
    """Where c and u have the same length and nearly the same direction, as at high noise: u' = (c + u) / 2."""
    level = schedule.at(SCHEDULES["cosine"], -1)
    x_t = points(jax.random.key(0), level, 8)
    every = [jax.vmap(one, (0, None)) for one in (guidance.tangential(C, U, 0.0), C, U)]
    found, c, u = jax.device_get(jax.jit(lambda x_t: [each(x_t, level) for each in every])(x_t))
    assert np.abs(c.x_0 - u.x_0).max() > 0.3
    np.testing.assert_allclose(found.eps, (c.eps + u.eps) / 2, rtol=1e-4)


def test_magnitude_aware_guidance_shrinks_with_the_length_of_its_own_move():
    """The paper's w, of the flow velocity; 1 for a huge damping, the scale for none."""
    x_t = points(jax.random.key(0), LEVEL, 6)

    @jax.jit
    def found(damping):
        return jax.vmap(guidance.magnitude_aware(C, U, 5.0, damping), (0, None))(x_t, LEVEL)

    c, u = jax.device_get(jax.jit(lambda x_t: [jax.vmap(one, (0, None))(x_t, LEVEL) for one in (C, U)])(x_t))
    velocities = [np.float64(one.eps) - np.float64(one.x_0) for one in (c, u)]
    lengths = np.linalg.norm(velocities[0] - velocities[1], axis=1) / np.linalg.norm(velocities[1], axis=1)
    weights = 1 + 4 * np.exp(-3 * lengths)
    assert weights.max() > 1.2 * weights.min()
    for view in ("x_0", "eps"):
        of_c, of_u = np.asarray(getattr(c, view)), np.asarray(getattr(u, view))
        got = getattr(found(3.0), view)
        np.testing.assert_allclose(got, of_u + weights[:, None] * (of_c - of_u), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(getattr(found(1e9), view), of_c, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(getattr(found(0.0), view), of_u + 5 * (of_c - of_u), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [guidance.tangential, guidance.magnitude_aware])
def test_an_unconditional_prediction_of_zero_is_no_division_by_zero(make):
    zero, one = (lambda x, level, value=value: prediction.Prediction(*jnp.full((2, 3), value)) for value in (0.0, 1.0))
    for pair in ((one, zero), (zero, zero)):
        x_0 = jax.jit(jax.grad(lambda x, pair=pair: make(*pair, 2.0)(x, LEVEL).x_0.sum()))(jnp.ones(3))
        assert jnp.all(jnp.isfinite(x_0))
