"""The numbers of metrics/ against closed forms, constructed clouds, and what ADM's evaluator recorded."""

import functools
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg

from guided_jax import metrics
from guided_jax.metrics import neighbours

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluator.npz", allow_pickle=False)


def golden(name):
    return GOLDEN[f"case0/{name}"]


def cloud(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def within(values, truth, errors=4):
    """Whether the mean of independent values is as far from the truth as their standard error allows."""
    return abs(np.mean(values) - truth) < errors * np.std(values, ddof=1) / np.sqrt(len(values))


def test_moments_equal_those_of_numpy():
    x = cloud(0, 50, 3).astype(np.float32)
    mean, covariance = metrics.moments(x)
    assert covariance.dtype == np.float64
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64))
    np.testing.assert_allclose(covariance, np.cov(x.astype(np.float64), rowvar=False))


def test_chunks_in_any_order_are_the_whole_even_far_from_zero():
    """At a mean of 1e7 the sum of squares less the square of the sum has no digit left."""
    x = cloud(0, 60, 4) + 1e7
    mean, covariance = metrics.moments(x)
    parts = [metrics.Moments.of(part) for part in (x[40:], x[:1], x[1:40])]
    for found in (metrics.accumulate(np.array_split(x, 7)), functools.reduce(metrics.merge, parts)):
        assert found.size == 60
        np.testing.assert_allclose(found.mean, mean, rtol=1e-15)
        np.testing.assert_allclose(found.covariance, covariance, rtol=1e-7, atol=1e-7)
    naive = (x.T @ x - 60 * np.outer(x.mean(0), x.mean(0))) / 59
    assert np.abs(naive - covariance).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.Moments.of(np.full((2, 2), np.nan)), "finite"),
        (lambda: metrics.accumulate(iter(())), "no features"),
        (lambda: metrics.Moments.of(np.ones((1, 2))).covariance, "at least two"),
        (lambda: metrics.frechet_infinity(cloud(0, 30, 8), np.zeros(8), np.eye(8)), "twice as many"),
        (lambda: metrics.precision_recall(cloud(0, 3, 2), cloud(1, 9, 2)), "more than 3 points"),
        (lambda: metrics.kernel_distance(cloud(0, 9, 2), cloud(1, 9, 2), subset_size=10), "10 cannot be drawn from 9"),
        (lambda: metrics.inception_score(np.ones((0, 3))), "0 samples"),
        (lambda: metrics.accuracy(np.ones((2, 3)), np.array([0, 3])), "knows 3 classes"),
    ],
)
def test_wrong_features_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


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
    x = cloud(0, 5, 8)
    np.testing.assert_allclose(metrics.frechet_distance(*metrics.moments(x), *metrics.moments(x)), 0, atol=1e-6)


def test_the_bias_of_few_samples_is_measured_and_extrapolated_away():
    """Samples of the very law: their distance is not 0, by about c / N, and at 1 / N = 0 it is."""
    law = (np.zeros(4), np.eye(4))
    clouds = [cloud(seed, 200, 4) for seed in range(40)]
    plain = [metrics.frechet_distance(*metrics.moments(x), *law) for x in clouds]
    halves = [metrics.frechet_distance(*metrics.moments(x[:100]), *law) for x in clouds]
    assert np.mean(plain) > 10 * np.std(plain) / np.sqrt(len(plain))
    np.testing.assert_allclose(np.mean(halves) / np.mean(plain), 2, rtol=0.15)
    assert within([metrics.frechet_infinity(x, *law, smallest=40) for x in clouds], 0)


def test_the_kernel_distance_is_unbiased_for_equal_laws_and_for_others():
    """For one number k = (x y + 1)^3, so MMD^2 = (m3 - m3')^2 + 3 (m2 - m2')^2 + 3 (m1 - m1')^2 of the moments."""
    pairs = [(cloud([seed, 0], 20, 1), cloud([seed, 1], 30, 1)) for seed in range(400)]
    assert within([metrics.mmd_squared(x, y) for x, y in pairs], 0)
    a = 0.5
    truth = (3 * a + a**3) ** 2 + 3 * (a**2) ** 2 + 3 * a**2
    found = [metrics.mmd_squared(x, y + a) for x, y in pairs]
    assert within(found, truth)
    assert np.std(found) / np.sqrt(len(found)) < 0.1 * truth


def test_the_kernel_is_that_of_the_formula():
    """k(x, y) = (x y / d + 1)^3, pair by pair, for d = 4."""
    x, y = cloud(0, 3, 4), cloud(1, 2, 4)

    def mean(one, other):
        return np.mean([(a @ b / 4 + 1) ** 3 for a in one for b in other if a is not b])

    rows, others = list(x), list(y)  # the same objects on both sides, so that no point is paired with itself
    want = mean(rows, rows) + mean(others, others) - 2 * mean(rows, others)
    np.testing.assert_allclose(metrics.mmd_squared(x, y), want)


def test_subsets_of_everything_are_everything():
    x, y = cloud(0, 12, 3), cloud(1, 12, 3) + 1
    spread = metrics.kernel_distance(x, y, subsets=3, subset_size=12)
    np.testing.assert_allclose(spread.mean, metrics.mmd_squared(x, y))
    assert spread.std < 1e-12
    assert metrics.kernel_distance(x, y, subsets=3, subset_size=6).std > 1e-3


LINE = np.arange(4.0)[:, None]


@pytest.mark.parametrize(
    ("samples", "precision", "recall", "density", "coverage"),
    [
        # Reference balls reach 1 to either side; the samples' own reach from 0.5 to 10 and back.
        ([0.5, 10.0], 0.5, 1.0, 1.0, 0.5),
        ([0.0, 1.0, 2.0, 3.0], 1.0, 1.0, 2.5, 1.0),
        ([4.0, 4.5], 0.5, 0.0, 0.5, 0.25),
        ([50.0, 51.0, 52.0], 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_neighbours_on_a_line(samples, precision, recall, density, coverage):
    samples = np.array(samples)[:, None]
    assert metrics.precision_recall(LINE, samples, k=1) == (precision, recall)
    assert metrics.density_coverage(LINE, samples, k=1) == (density, coverage)


def test_neighbours_in_blocks_are_those_found_one_by_one(monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    x, y = cloud(0, 40, 5).astype(np.float32), cloud(1, 30, 5).astype(np.float32)
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    far = NearestNeighbors(n_neighbors=4).fit(x).kneighbors(x)[0][:, -1]
    np.testing.assert_allclose(metrics.radii_squared(x, 3), far.astype(np.float64) ** 2, rtol=1e-6)
    inside = np.linalg.norm(y[:, None] - x[None], axis=-1) <= far
    found = metrics.precision_recall(x, y)
    assert found.precision == inside.any(1).mean()
    far_y = NearestNeighbors(n_neighbors=4).fit(y).kneighbors(y)[0][:, -1]
    assert found.recall == (np.linalg.norm(x[:, None] - y[None], axis=-1) <= far_y).any(1).mean()
    dense = metrics.density_coverage(x, y, k=3)
    np.testing.assert_allclose(dense, (inside.sum(1).mean() / 3, inside.any(0).mean()))


def test_an_outlier_spoils_precision_but_not_density():
    """[DC] figure 1: its ball holds samples that are nowhere near the data."""
    data = np.concatenate([cloud(0, 100, 2), [[30.0, 0.0]]])
    samples = cloud(1, 100, 2) + np.array([15.0, 0.0])
    assert metrics.precision_recall(data, samples).precision > 0.5
    assert metrics.density_coverage(data, samples).density < 0.3


def test_equal_laws_have_a_density_of_one():
    found = metrics.density_coverage(cloud(0, 800, 3), cloud(1, 800, 3))
    np.testing.assert_allclose(found.density, 1, atol=0.06)
    assert found.coverage > 0.9


def test_inception_scores_that_are_known():
    alike = np.full((6, 4), 0.25)
    np.testing.assert_allclose(metrics.inception_score(alike).mean, 1)
    sure = np.eye(4)[np.arange(12) % 4]
    np.testing.assert_allclose(metrics.inception_score(sure).mean, 4)
    # Splits of the first six: classes 0 and 1 twice, 2 and 3 once; then twice 2 and 3. exp of the entropy of the shares.
    shares = np.array([2, 2, 1, 1]) / 6
    want = np.exp(-(shares * np.log(shares)).sum())
    found = metrics.inception_score(sure, split_size=6)
    np.testing.assert_allclose(found, (want, 0), atol=1e-12)
    assert np.isnan(metrics.inception_score(sure).std)


def test_class_accuracy_and_balance():
    logits = np.array([[1, 2, 0], [3, 0, 0], [0, 0, 1.0]])
    assert metrics.accuracy(logits, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert metrics.balance(np.array([0, 0, 1, 1])) == "2 classes, 2 of each"
    assert metrics.balance(np.array([0, 1, 1, -1])) == "2 classes, 1 to 2 of each, 1 without a label"
    assert metrics.balance(np.array([-1])) == metrics.balance(None) == "no labels"


def test_the_metrics_equal_those_of_adms_evaluator():
    """Recorded from its own code; float32 there, and blocks of the distances by its formula."""
    reference, samples = golden("ref_features"), golden("sample_features")
    for name, features in (("ref", reference), ("sample", samples)):
        mean, covariance = metrics.moments(features)
        np.testing.assert_allclose(mean, golden(f"{name}_mu"), atol=1e-6)
        np.testing.assert_allclose(covariance, golden(f"{name}_sigma"), atol=1e-6)
    distance = metrics.frechet_distance(*metrics.moments(samples), *metrics.moments(reference))
    np.testing.assert_allclose(distance, golden("fid")[0], rtol=1e-5)
    np.testing.assert_allclose(metrics.radii_squared(reference, 3), golden("ref_radii_squared")[:, 0], rtol=1e-5)
    np.testing.assert_allclose(metrics.precision_recall(reference, samples), golden("precision_recall"), rtol=1e-6)
    score = metrics.inception_score(metrics.softmax(samples @ golden("softmax_weight")), split_size=32)
    np.testing.assert_allclose(score.mean, golden("inception_score")[0], rtol=1e-5)


def test_error_bars_are_those_of_a_sample():
    found = metrics.MeanStd.of([1.0, 2.0, 6.0])
    np.testing.assert_allclose(found, (3.0, np.sqrt((4 + 1 + 9) / 2)))
    assert np.isnan(metrics.MeanStd.of([1.0]).std)
