"""CLIP score and retrieval: exact values of features made by hand, and the level of chance."""

import inspect

import numpy as np
import pytest

from guided_jax import metrics
from guided_jax.metrics import alignment

RNG = np.random.default_rng(0)


def test_the_score_of_known_angles():
    """60 degrees is 50, a right angle and beyond it 0; lengths do not count."""
    image = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
    text = np.array([[1.0, np.sqrt(3)], [7.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = metrics.clip_score(image, text)
    np.testing.assert_allclose(found.values, [50, 100, 0, 0], atol=1e-12)
    assert found.mean == pytest.approx(37.5)
    assert found.error == pytest.approx(np.std([50, 100, 0, 0], ddof=1) / 2)
    assert np.isnan(metrics.clip_score(image[:1], text[:1]).error)
    np.testing.assert_allclose(metrics.clip_score(image.astype(np.float16), 3 * text).values, found.values, atol=0.1)


def test_the_score_of_the_wrong_prompts():
    """Of orthonormal prompts, a picture (cos a, sin a) of prompt 0 has cos a with its own and sin a / 2 with others."""
    angle = np.radians([0, 30, 60])
    image = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    labels = np.zeros(3, int)
    right = metrics.clip_score(image, np.eye(3)[labels])
    wrong = metrics.mismatched_clip_score(image, np.eye(3), labels)
    np.testing.assert_allclose(right.values, 100 * np.cos(angle))
    np.testing.assert_allclose(wrong.values, 50 * np.sin(angle))
    with pytest.raises(ValueError, match="two prompts or more"):
        metrics.mismatched_clip_score(image[:, :1] + 1, np.ones((1, 1)), labels)


def test_orthonormal_features_retrieve_their_own():
    text = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    labels = RNG.integers(0, 8, 30)
    for right, want in ((labels, 1.0), ((labels + 1) % 8, 0.0)):
        found = metrics.retrieval(text[labels] * RNG.uniform(0.1, 9, (30, 1)), text, right, k=(1,))[1]
        assert (found.score.mean, found.chance) == (want, 1 / 8)
        assert found.floor == pytest.approx(np.sqrt(7) / 8 / np.sqrt(30))


def test_the_rank_of_the_right_prompt():
    """Prompts at rising angles from the picture: prompt r has r nearer ones."""
    angle = np.radians([10, 20, 30, 40, 50, 60])
    text = np.stack([np.cos(angle), np.sin(angle)], 1)
    labels = np.array([0, 1, 4, 5])
    found = metrics.retrieval(np.tile([1.0, 0.0], (4, 1)), text, labels, k=(1, 2, 5, 6))
    assert {k: list(each.score.values) for k, each in found.items()} == {
        1: [1, 0, 0, 0],
        2: [1, 1, 0, 0],
        5: [1, 1, 1, 0],
        6: [1, 1, 1, 1],
    }
    assert (found[5].chance, found[6].chance, found[6].floor) == (5 / 6, 1, 0)


def test_a_tie_counts_as_its_expected_share():
    """Features that tell nothing reach chance exactly, whatever the numbers of the prompts."""
    for number in (1, 3, 7):
        same = metrics.retrieval(np.ones((5, 4)), np.ones((number, 4)), np.arange(5) % number)
        for k, found in same.items():
            assert found.score.mean == pytest.approx(found.chance) == pytest.approx(min(k / number, 1))
    # One is nearer, and the right one shares the next three places: of two left of k = 3, each has 2/3.
    text = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [1.2, 1.6], [0.0, 1.0]])
    found = metrics.retrieval(np.array([[1.0, 0.0]]), text, np.array([2]), k=(1, 2, 3, 4))
    shares = [float(each.score.mean) for each in found.values()]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_features_at_random_are_at_the_level_of_chance():
    text, image = RNG.normal(size=(40, 16)), RNG.normal(size=(4000, 16))
    labels = RNG.integers(0, 40, 4000)
    found = metrics.retrieval(image, text, labels)
    for k, each in found.items():
        assert each.chance == k / 40
        assert abs(each.score.mean - each.chance) < 3 * each.floor
        assert each.floor == pytest.approx(each.score.error, rel=0.1)
    right, wrong = metrics.clip_score(image, text[labels]), metrics.mismatched_clip_score(image, text, labels)
    assert abs(right.mean - wrong.mean) < 3 * right.error


def test_blocks_change_nothing(monkeypatch):
    text, image, labels = RNG.normal(size=(9, 5)), RNG.normal(size=(23, 5)), RNG.integers(0, 9, 23)
    arguments = (image, text, labels)
    whole = metrics.retrieval(*arguments), metrics.mismatched_clip_score(*arguments)
    monkeypatch.setattr(alignment, "BLOCK", 30)
    parts = metrics.retrieval(*arguments), metrics.mismatched_clip_score(*arguments)
    for k in (1, 5):
        np.testing.assert_array_equal(parts[0][k].score.values, whole[0][k].score.values)
    np.testing.assert_allclose(parts[1].values, whole[1].values)


@pytest.mark.parametrize(
    ("image", "text", "labels", "words"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], "image features have 3 numbers and text features 4"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 2], "labels number the 2 texts from 0"),
        (np.ones((2, 3)), np.ones((2, 3)), [-1, 0], "labels number the 2 texts"),
        (np.ones((2, 3)), np.ones((2, 3)), [0], "one for each of 2 images"),
        (np.zeros((2, 3)), np.ones((2, 3)), [0, 1], "image features are .* no row of zeros"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), [0, 1], "text features are .* finite"),
        (np.ones((0, 3)), np.ones((2, 3)), [], "image features"),
    ],
)
def test_wrong_features_are_refused(image, text, labels, words):
    retrieval = inspect.unwrap(metrics.retrieval)  # without the types that only tests check
    with pytest.raises(ValueError, match=words):
        retrieval(image, text, np.array(labels, int))


def test_wrong_numbers_of_them_are_refused():
    with pytest.raises(ValueError, match="give a text for each image"):
        inspect.unwrap(metrics.clip_score)(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="k is 0; give at least 1"):
        metrics.retrieval(np.ones((2, 3)), np.ones((2, 3)), np.array([0, 1]), k=(0,))
