"""The whole of it on real digits, trained for real: make test-slow."""

import dataclasses

import numpy as np
import pytest

from guided_jax import data, parallel
from guided_jax.app import experiments
from guided_jax.app import run as runs
from guided_jax.app.demo import comparison
from guided_jax.app.sample import draw
from guided_jax.app.sample.request import Method
from guided_jax.app.train import command as train

COUNT = 500


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The digits experiment as it ships, but for where its data lies."""
    place = tmp_path_factory.mktemp("digits")
    shipped = experiments.load("digits")
    train.train(dataclasses.replace(shipped, data=dataclasses.replace(shipped.data, dir=place / "data")), place / "run")
    return place


def drawn(place, kind, scale, labels):
    run = runs.load(place / "run")
    params = {part: runs.params(place / "run", part) for part in ("diffusion", "classifier")}
    devices = parallel.choose_devices(COUNT, 2)
    request = Method(guidance=kind, sampler="ddim")
    sample = draw.make_sampler(run, request, True, devices)
    placed = draw.place(run, params, devices)
    return sample(placed, np.arange(COUNT), labels, np.full(COUNT, scale), 0).images


@pytest.mark.slow
@pytest.mark.parametrize("kind", comparison.KINDS)
def test_guided_digits_are_recognised_new_and_varied(trained, kind):
    """95 % right by a judge that was not the guide; none a copy of a training image; a class is not one image."""
    source = data.load("digits", "train", trained / "data")
    labels = np.arange(COUNT) % 10
    pictures = drawn(trained, kind, 3.0, labels)
    found = comparison.pixels(pictures)
    assert (comparison.fit_judge(comparison.everything(source)).predict(found) == labels).mean() >= 0.95
    known = comparison.pixels(comparison.everything(source)["image"])
    apart = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    # How near real digits come to each other: a copy would be far nearer than the nearest two scans of the same class.
    real = apart(
        comparison.pixels(comparison.everything(data.load("digits", "test", trained / "data"))["image"]), known
    ).min(1)
    nearest = apart(found, known).min(1)
    assert nearest.min() > 0.25 * np.quantile(real, 0.05)
    assert np.median(nearest) > 0.5 * np.median(real)
    for label in range(10):
        mine = found[labels == label]
        between = apart(mine, mine)[np.triu_indices(len(mine), 1)]
        assert np.median(between) > 0.4 * np.median(real)


@pytest.mark.slow
@pytest.mark.parametrize("kind", comparison.KINDS)
def test_at_scale_0_the_labels_are_ignored(trained, kind):
    """All ask for a 3; what comes follows the data's class frequencies (chi-squared, 9 degrees: 99.9 % below 28)."""
    source = data.load("digits", "train", trained / "data")
    pictures = drawn(trained, kind, 0.0, np.full(COUNT, 3))
    counts = np.bincount(
        comparison.fit_judge(comparison.everything(source)).predict(comparison.pixels(pictures)), minlength=10
    )
    expected = COUNT * data.class_frequencies(source)
    assert ((counts - expected) ** 2 / expected).sum() < 40, counts
