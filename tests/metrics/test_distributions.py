"""Distances to an exact law, on laws whose distances are known; and what exact draws have."""

import numpy as np
import pytest
from scipy import stats

from guided_jax import metrics

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4000, 3))


def test_the_sliced_distance_is_that_of_the_projections():
    """Of two sets, direction by direction, by SciPy; the order of the points says nothing."""
    y = 0.5 * RNG.standard_normal((4000, 3)) + 0.2
    directions = np.linalg.qr(RNG.standard_normal((3, 3)))[0]
    want = np.mean([stats.wasserstein_distance(X @ u, y @ u) for u in directions.T])
    np.testing.assert_allclose(metrics.sliced_wasserstein(X, y, directions), want, rtol=1e-12)
    np.testing.assert_allclose(metrics.sliced_wasserstein(X[::-1], y, directions), want, rtol=1e-12)
    # E |u_1| of a unit vector in three dimensions is 1/2, along any axis.
    shifted = metrics.sliced_wasserstein(X + np.array([0.8, -0.8, 0]) / np.sqrt(2), X, 4000)
    np.testing.assert_allclose(shifted, 0.4, rtol=0.03)
    with pytest.raises(ValueError, match=r"\(4000, 3\) and \(10, 3\)"):
        metrics.sliced_wasserstein(X, X[:10])


def test_the_normal_kernel_sees_what_the_cubic_one_sees_and_more():
    """MMD^2 of N(0, 1) and N(m, 1) in closed form; and two laws of the same first three moments."""
    width, shift = 1.5, 0.7
    squared = width**2
    scale = np.sqrt(squared / (squared + 2)) ** 3
    want = 2 * scale * (1 - np.exp(-3 * shift**2 / (2 * (squared + 2))))
    kernel = metrics.normal_kernel(width)
    pairs = [RNG.standard_normal((2, 300, 3)) for _ in range(30)]
    found = [metrics.mmd_squared(x, y + shift, kernel) for x, y in pairs]
    assert abs(np.mean(found) - want) < 4 * np.std(found) / np.sqrt(30)
    signs = [(x, np.sign(y)) for x, y in RNG.standard_normal((30, 2, 300, 1))]
    kernels = metrics.normal_kernel(0.7), metrics.kernel.kernel
    by_normal, by_cubic = ([metrics.mmd_squared(*pair, each) for pair in signs] for each in kernels)
    assert np.mean(by_normal) > 10 * np.std(by_normal) / np.sqrt(30)
    assert abs(np.mean(by_cubic)) < 4 * np.std(by_cubic) / np.sqrt(30)


def test_mode_weights_are_the_shares_of_the_nearest_modes():
    modes = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    x = modes[[0, 0, 1, 2]] + 0.3
    np.testing.assert_allclose(metrics.mode_weights(x, modes), [0.5, 0.25, 0.25, 0])
    assert metrics.mode_distance(x, modes[:1], modes) == pytest.approx(0.5)
    assert metrics.mode_distance(modes[:1], modes[1:2], modes) == 1


def test_coverage_is_that_of_the_highest_density_set():
    """Of a normal law in three dimensions: a ball; by the chi-square law, for points of that law and scaled ones."""
    log_density = lambda x: -np.square(x).sum(1) / 2  # noqa: E731
    reference = RNG.standard_normal((100_000, 3))
    for scale in (0.7, 1.0, 1.5):
        want = stats.chi2.cdf(stats.chi2.ppf(0.8, 3) / scale**2, 3)
        found = metrics.highest_density_coverage(log_density(scale * X), log_density(reference), 0.8)
        np.testing.assert_allclose(found, want, atol=0.02)


def test_the_noise_floor_is_what_exact_draws_have():
    draws = RNG.standard_normal((40, 200, 2))
    floor = metrics.noise_floor(metrics.sliced_wasserstein, draws)
    beside = metrics.sliced_wasserstein(*RNG.standard_normal((2, 200, 2)))
    assert abs(beside - floor.mean) < 4 * floor.std
    assert metrics.sliced_wasserstein(draws[0] + 0.5, draws[1]) > floor.mean + 4 * floor.std
    first = [metrics.sliced_wasserstein(draws[2 * i], draws[2 * i + 1]) for i in range(20)]
    np.testing.assert_allclose(floor, (np.mean(first), np.std(first, ddof=1)))
    for sets in (draws[:3], []):
        with pytest.raises(ValueError, match="even number"):
            metrics.noise_floor(metrics.sliced_wasserstein, sets)
