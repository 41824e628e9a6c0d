"""Gibbs-like guidance against the variance at which noise and the guided flow come to rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import grid, guidance, reverse, sampler
from tests.oracle import BROAD, NARROW, SCHEDULES, gibbs_like

STEP = reverse.dpm_solver(2)


def repeated(key, x_0, scale, table, sigma, repeats):
    denoise = guidance.classifier_free(NARROW.denoiser(), BROAD.denoiser(), scale)
    levels = grid.karras(SCHEDULES[table], 32, sigma_max=sigma)
    return sampler.gibbs_like(key, denoise, STEP, x_0[None], levels, repeats)[0]


@pytest.mark.parametrize("table", ["cosine", "karras"])
@pytest.mark.parametrize(("scale", "sigma"), [(3.0, 0.5), (2.0, 1.5)])
def test_one_repeat_is_a_linear_map_of_its_closed_form(table, scale, sigma, monkeypatch):
    """x_0 = a x_0 + b noise, at rest where v = a^2 v + b^2: from x_0 = 1 without noise, and from 0 with it."""

    def moved(x_0, noise):
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, noise, dtype))
        return repeated(jax.random.key(0), x_0, scale, table, sigma, 1)

    a, b = jax.jit(jax.vmap(moved))(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(b**2 / (1 - a**2), gibbs_like(scale, sigma), rtol=0.01)


def test_every_repeat_has_noise_of_its_own():
    """From 0: after 14 repeats the variance at rest, nearer to the .5 of the sharpened law than to the .25 of the flow."""
    run = jax.jit(jax.vmap(lambda key: repeated(key, jnp.zeros(()), 3.0, "cosine", 0.5, 14)))
    variance = np.square(run(jax.random.split(jax.random.key(0), 4000))).mean()
    np.testing.assert_allclose(variance, gibbs_like(3.0, 0.5), rtol=0.05)
    assert abs(variance - 0.5) < abs(variance - 0.25)


def test_no_repeat_is_refused():
    with pytest.raises(ValueError, match="repeats is 0; give at least 1"):
        repeated(jax.random.key(0), jnp.zeros(()), 1.0, "cosine", 0.5, 0)
