"""The Fréchet distance against its closed forms."""

import numpy as np
from scipy import linalg

from guided_jax import metrics


def test_moments_are_numpys():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    mean, covariance = metrics.moments(x)
    assert covariance.dtype == np.float64
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64))
    np.testing.assert_allclose(covariance, np.cov(x.astype(np.float64), rowvar=False))


def test_commuting_covariances_have_a_closed_form():
    """|m - m'|^2 + sum (s - s')^2 for diagonal covariances s^2, s'^2."""
    m, n, s, r = np.array([1.0, 2.0]), np.array([0.0, 4.0]), np.array([1.0, 3.0]), np.array([2.0, 0.5])
    found = metrics.frechet_distance(m, np.diag(s**2), n, np.diag(r**2))
    np.testing.assert_allclose(found, 1 + 4 + 1 + 2.5**2)


def test_any_covariances_agree_with_the_matrix_square_root():
    generator = np.random.default_rng(0)
    a, b = (np.cov(generator.normal(size=(40, 6)) @ generator.normal(size=(6, 6)), rowvar=False) for _ in range(2))
    mean = np.zeros(6)
    want = np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b).real)
    np.testing.assert_allclose(metrics.frechet_distance(mean, a, mean, b), want, rtol=1e-8)


def test_nothing_is_nearer_than_itself_even_when_singular():
    x = np.random.default_rng(0).normal(size=(5, 8))
    np.testing.assert_allclose(metrics.frechet_distance(*metrics.moments(x), *metrics.moments(x)), 0, atol=1e-6)
