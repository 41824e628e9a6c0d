"""Frequency-decoupled guidance: each band of the difference has the strength of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, schedule
from guided_jax.prediction import Prediction

LEVEL = schedule.at(schedule.cosine(1000), 400)


def fixed(seed, shape):
    """A denoiser of fixed views, drawn at random."""
    views = np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
    return lambda x_t, level: Prediction(*jnp.asarray(views))


def triangle(rows, columns, width):
    """(rows, columns): linear interpolation at the places of `rows` pixels on `columns` ones, `width` pixels to a side."""
    places = (np.arange(rows) + 0.5) * columns / rows - 0.5
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(columns)) / width)
    return weights / weights.sum(1, keepdims=True)


def bands(d, count):
    """The bands of a Laplacian pyramid by Burt and Adelson's recipe, each at the size of d, in float64."""
    steps, found = [(np.eye(d.shape[0]), np.eye(d.shape[1]))], []
    for _ in range(count - 1):
        down = [triangle((side + 1) // 2, side, side / ((side + 1) // 2)) for side in d.shape[:2]]
        up = [triangle(side, (side + 1) // 2, 1) for side in d.shape[:2]]
        smaller = np.einsum("ai,bj,ijc->abc", *down, d)
        fine = d - np.einsum("ai,bj,ijc->abc", *up, smaller)
        found.append(np.einsum("ai,bj,ijc->abc", *steps[-1], fine))
        steps.append(tuple(before @ one for before, one in zip(steps[-1], up, strict=True)))
        d = smaller
    return [*found, np.einsum("ai,bj,ijc->abc", *steps[-1], d)]


@pytest.mark.parametrize("shape", [(8, 8, 2), (6, 5, 1)], ids=str)
def test_each_band_has_its_scale(shape):
    c, u, scales = fixed(0, shape), fixed(1, shape), [7.0, 2.0, -0.5]
    found = jax.jit(guidance.frequency_decoupled(c, u, scales))(jnp.zeros(shape), LEVEL)
    for got, one, other in zip(found[:2], c(0, 0)[:2], u(0, 0)[:2], strict=True):
        parts = bands(np.float64(one) - np.float64(other), 3)
        np.testing.assert_allclose(sum(parts), np.float64(one) - np.float64(other), atol=1e-12)
        want = other + sum(scale * part for scale, part in zip(scales, parts, strict=True))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scales", [[3.0], [3.0, 3.0], [3.0, 3.0, 3.0, 3.0]], ids=len)
def test_equal_scales_are_classifier_free(scales):
    """Of signals too, and with more bands than there are halves of 5 samples."""
    c, u, x_t = fixed(0, (5, 2)), fixed(1, (5, 2)), jnp.zeros((5, 2))
    found, want = (
        jax.jit(made)(x_t, LEVEL)
        for made in (guidance.frequency_decoupled(c, u, scales), guidance.classifier_free(c, u, 3.0))
    )
    np.testing.assert_allclose(found.x_0, want.x_0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.eps, want.eps, rtol=1e-6, atol=1e-6)


def test_a_flat_difference_has_the_last_scale_alone():
    c, u = (lambda x_t, level, value=value: Prediction(*jnp.full((2, 6, 6, 1), value)) for value in (1.0, 0.0))
    by_level = guidance.frequency_decoupled(c, u, [10.0, 4.0, lambda level: 2 * level.t])
    np.testing.assert_allclose(by_level(jnp.zeros((6, 6, 1)), LEVEL).x_0, 800.0, rtol=1e-6)


def test_scales_and_shapes_that_there_are_no_bands_for():
    c = fixed(0, (3,))
    with pytest.raises(ValueError, match="there are no scales"):
        guidance.frequency_decoupled(c, c, [])
    with pytest.raises(ValueError, match=r"\(3,\).*no frequencies"):
        guidance.frequency_decoupled(c, c, [2.0, 1.0])(jnp.zeros(3), LEVEL)
