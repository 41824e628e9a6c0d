"""Criteria of clean pictures: their gradients by hand, and what they draw of an exact prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import criteria, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture

LEVEL = schedule.at(schedule.cosine(10), 0)
X = jax.random.normal(jax.random.key(0), (6, 8, 3))
TARGET = jax.random.normal(jax.random.key(1), (6, 8, 3))


def slope(criterion, x=X):
    return np.asarray(jax.grad(criterion)(x, LEVEL))


def test_near_a_picture_the_gradient_is_the_difference_over_the_variance():
    np.testing.assert_allclose(slope(criteria.near(TARGET, error=0.5)), (TARGET - X) / 0.25, rtol=1e-5)


def test_near_a_picture_in_the_features_of_a_function():
    """Of linear features f = x A, in a pytree: sum of A (f* - f) over its parts."""
    a, b = (jax.random.normal(jax.random.key(seed), (3, 5)) for seed in (2, 3))
    found = slope(criteria.near(TARGET, lambda x: {"a": x @ a, "b": x @ b}, error=2.0))
    want = (TARGET - X) @ (a @ a.T + b @ b.T) / 4
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_colour_moves_all_pixels_of_a_channel_alike():
    mean = jnp.array([0.5, -0.2, 0.1])
    found = slope(criteria.colour(mean, error=0.3))
    want = np.broadcast_to((mean - X.mean((0, 1))) / (0.09 * 48), X.shape)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


def test_colour_with_the_deviation_is_greatest_at_the_picture_itself():
    criterion = criteria.colour(*criteria.channel_statistics(TARGET))
    assert float(criterion(TARGET, LEVEL)) == pytest.approx(0, abs=1e-6)
    assert float(criterion(jnp.flip(TARGET, (0, 1)), LEVEL)) == pytest.approx(
        0, abs=1e-6
    )  # where a colour is counts not
    stretched = 2 * TARGET - TARGET.mean((0, 1), keepdims=True)
    deviation = np.asarray(TARGET.std((0, 1)), np.float64)
    np.testing.assert_allclose(criterion(stretched, LEVEL), -np.sum(deviation**2) / (2 * 0.01), rtol=1e-4)
    assert np.isfinite(slope(criterion, jnp.zeros((4, 4, 3)))).all()  # where the deviation is 0


def test_another_number_of_channels_is_an_error():
    with pytest.raises(ValueError, match=r"the colour has shape \(2,\), and x 3 channels"):
        criteria.colour(jnp.zeros(2))(X, LEVEL)


def test_style_is_the_distance_of_gram_matrices():
    features = lambda x: [x, x[::2] ** 2]  # noqa: E731
    want = 0.0
    for own, other in zip(features(np.asarray(X, np.float64)), features(np.asarray(TARGET, np.float64)), strict=True):
        grams = [np.einsum("hwc,hwd->cd", f, f) / (f.shape[0] * f.shape[1]) for f in (own, other)]
        want -= np.sum((grams[0] - grams[1]) ** 2) / (2 * 0.7**2)
    np.testing.assert_allclose(criteria.style(TARGET, features, 0.7)(X, LEVEL), want, rtol=1e-4)


def test_patches_are_those_of_the_picture_and_of_its_half():
    whole, half = criteria.patches(X)
    assert (whole.shape, half.shape) == ((4, 6, 27), (1, 2, 27))
    np.testing.assert_array_equal(whole[2, 3].reshape(3, 3, 3), X[2:5, 3:6])
    np.testing.assert_allclose(half[0, 1, :3], X[:2, 2:4].mean((0, 1)), rtol=1e-5)
    assert len(criteria.patches(X, scales=5)) == 2


def test_penalties():
    step = jnp.zeros((3, 2, 1)).at[1].set(2.0)
    np.testing.assert_array_equal(slope(criteria.smooth(), step)[:, :, 0], [[1, 1], [-2, -2], [1, 1]])
    np.testing.assert_allclose(slope(criteria.in_range(-1, 1), jnp.array([3.0, 0.2, -1.5])), [-4.0, 0.0, 1.0])


def test_a_function_of_ones_own_colours_half_of_a_picture_under_training_free_guidance():
    """As a segmentation would: the left half bright, of a prior of mean 0 whose right half it leaves alone."""
    prior = GaussianMixture(jnp.ones(1), jnp.zeros((1, 4, 4, 1)), jnp.array([0.5]))
    left = lambda x_0, level: -jnp.sum(jnp.square(x_0[:, :2] - 1)) / 2  # noqa: E731
    levels = schedule.respace(schedule.cosine(1000), 20)

    def draw(key):
        step = reverse.training_free(reverse.ddim(1.0), left, 0.5, 0.25, 0.0, levels=levels)
        return sampler.sample(key, prior.denoiser(), step, jax.random.normal(key, (4, 4, 1)), levels)

    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 32))
    assert float(drawn[:, :, :2].mean()) > 0.5
    assert abs(float(drawn[:, :, 2:].mean())) < 0.1
