"""Retrieval by noise level: at chance in pure noise, as often as the exact posterior is right in between."""

import chex
import jax
import numpy as np
import pytest
from scipy import stats

from guided_jax import metrics, schedule
from guided_jax.forward import diffuse

LEVELS = schedule.cosine(20)
NAMES = np.concatenate([np.eye(4), -np.eye(4)])  # eight, each at a right angle to six and opposite to one
LABELS = np.arange(1000) % 8
PICTURES = NAMES[LABELS].reshape(-1, 2, 2, 1).astype(np.float32)


def embed(key, picture, position):
    """Return the noisy picture itself."""
    x_t = diffuse(picture, jax.random.normal(key, picture.shape), schedule.at(LEVELS, position))
    return x_t.reshape(-1)


def right(snr):
    """P(the nearest of the eight is the right one): the right coordinate is above the size of three others."""
    x = np.linspace(-8, 60, 40001)
    density = stats.norm.pdf(x - snr) * np.where(x > 0, 2 * stats.norm.cdf(x) - 1, 0) ** 3
    return np.trapezoid(density, x)


def test_it_is_as_often_right_as_the_nearest_name_is():
    chex.clear_trace_counter()
    once = chex.assert_max_traces(embed, n=2)  # by parallel_map: for the constants, and for the program
    arguments = (PICTURES, NAMES, LABELS, (0, 3, 10, 15, 20), jax.random.key(0))
    found = metrics.retrieval_by_level(once, *arguments, jax.devices()[:2], 128)
    assert found[0][1].score.mean == 1
    for position, each in found.items():
        if position:
            level = schedule.at(LEVELS, position)
            want = right(float(level.alpha / level.sigma))
            assert abs(each[1].score.mean - want) < 4 * max(each[1].score.error, 1e-3), position
            assert each[5].score.mean >= each[1].score.mean
    last = found[20]
    assert abs(last[1].score.mean - 1 / 8) < 4 * last[1].floor
    assert abs(last[5].score.mean - 5 / 8) < 4 * last[5].floor
    assert last[1].score.error == pytest.approx(np.sqrt(7) / 8 / np.sqrt(1000), rel=0.2)


def test_neither_devices_nor_batches_change_the_noise():
    arguments = (PICTURES[:30], NAMES, LABELS[:30], (10,), jax.random.key(1))
    one, other = (
        metrics.retrieval_by_level(embed, *arguments, jax.devices()[:count], size) for count, size in ((1, 30), (4, 8))
    )
    np.testing.assert_array_equal(one[10][1].score.values, other[10][1].score.values)
