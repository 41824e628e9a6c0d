"""The terms of an autoencoder's loss against closed forms, quadrature and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from guided_jax.losses import autoencoding


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.0, 1.0), (0.0, 0.1), (-1.5, 3.0)])
def test_the_divergence_is_the_integral(mean, std):
    p, q = stats.norm(mean, std), stats.norm()
    wide = (mean - 12 * std, mean + 12 * std)
    want, _ = integrate.quad(lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), *wide)
    found = autoencoding.kl_divergence(jnp.full((1, 2, 3), mean), jnp.full((1, 2, 3), 2 * np.log(std)))
    np.testing.assert_allclose(found, [6 * want], rtol=1e-5, atol=1e-6)


def test_the_divergence_is_of_each_example_and_has_its_own_minimum():
    mean, log_variance = jax.random.normal(jax.random.key(0), (2, 4, 3, 3, 2))
    both = autoencoding.kl_divergence(mean, log_variance)
    alone = [autoencoding.kl_divergence(mean[i : i + 1], log_variance[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(both, alone, rtol=1e-6)
    gradients = jax.grad(lambda *given: autoencoding.kl_divergence(*given).sum(), (0, 1))(mean, log_variance)
    np.testing.assert_allclose(gradients[0], mean, rtol=1e-6)
    np.testing.assert_allclose(gradients[1], (np.exp(log_variance) - 1) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("distance", "want"), [("l1", [1.0, 0.75]), ("l2", [1.0, 1.125])])
def test_the_reconstruction_is_a_mean_over_the_numbers_of_each_picture(distance, want):
    image = jnp.zeros((2, 2, 1, 2))
    output = jnp.array([[1.0, -1.0, 1.0, -1.0], [1.5, 0.0, -1.5, 0.0]]).reshape(image.shape)
    np.testing.assert_allclose(autoencoding.reconstruction(output, image, distance), want)


def test_an_unknown_distance_is_named():
    with pytest.raises(ValueError, match="unknown distance 'l3'; choose one of l1, l2"):
        autoencoding.reconstruction(jnp.zeros((1, 2)), jnp.zeros((1, 2)), "l3")


def test_the_perceptual_distance_is_of_directions_and_adds_up_over_layers():
    f, g = jax.random.normal(jax.random.key(1), (2, 3, 4, 4, 5))
    unit = [np.asarray(each) / np.linalg.norm(each, axis=-1, keepdims=True) for each in (f, g)]
    want = ((unit[0] - unit[1]) ** 2).sum(-1).mean((1, 2))
    np.testing.assert_allclose(autoencoding.perceptual([f], [g]), want, rtol=1e-4)
    np.testing.assert_allclose(autoencoding.perceptual([7 * f], [g]), want, rtol=1e-4)
    np.testing.assert_allclose(autoencoding.perceptual([f, f], [g, -f]), want + 4, rtol=1e-4)
    np.testing.assert_allclose(autoencoding.perceptual([f], [f]), 0, atol=1e-6)


def test_the_perceptual_distance_has_a_gradient_where_there_are_no_features():
    """As after an activation that cut all of them off; elsewhere it is that of finite differences."""
    g = jax.random.normal(jax.random.key(2), (1, 1, 1, 3))
    value = lambda f: autoencoding.perceptual([f], [g])[0]  # noqa: E731
    assert np.isfinite(jax.grad(value)(jnp.zeros((1, 1, 1, 3)))).all()
    f = jnp.array([0.3, -0.5, 0.2]).reshape(1, 1, 1, 3)
    found, step = jax.grad(value)(f), 1e-2
    for i in range(3):
        move = step * jnp.zeros(3).at[i].set(1.0).reshape(f.shape)
        slope = (value(f + move) - value(f - move)) / (2 * step)
        np.testing.assert_allclose(found.ravel()[i], slope, rtol=0.02, atol=1e-3)
