"""Averages that are made afterwards from EDM2's snapshots are those computed step by step."""

import numpy as np
import pytest

from guided_jax.pretrained import posthoc
from guided_jax.pretrained.posthoc import Snapshot
from guided_jax.training import averaging
from tests import pickle_writer as writer

STEPS, EVERY, SHAPE = 1500, 100, (2, 3)
SIGMA_RELS = (0.05, 0.1)


@pytest.fixture(scope="module")
def walk():
    """A random walk of weights, (steps, 2, 3)."""
    return np.cumsum(np.random.default_rng(0).normal(size=(STEPS, *SHAPE)), 0)


def averages(walk, sigma_rel):
    """Yield (t, average up to t) by the recurrence with beta = (1 - 1 / t)^(gamma + 1)."""
    power, found = averaging.gamma_of(sigma_rel) + 1, np.zeros(SHAPE)
    for t, theta in enumerate(walk, 1):
        beta = (1 - 1 / t) ** power
        found = beta * found + (1 - beta) * theta
        yield t, found


def state_dict(average, t=0):
    return {"unet.weight": average, "unet.emb_fourier.freqs": np.full(4, t, np.float16)}


@pytest.fixture(scope="module")
def snapshots(walk):
    return [
        Snapshot(t, sigma, state_dict(average, t))
        for sigma in SIGMA_RELS
        for t, average in averages(walk, sigma)
        if t % EVERY == 0
    ]


@pytest.mark.parametrize(("sigma_rel", "end"), [(0.05, None), (0.07, None), (0.15, None), (0.12, 900)])
def test_the_average_is_the_one_computed_step_by_step(sigma_rel, end, walk, snapshots):
    found = posthoc.combine(snapshots, sigma_rel, end)
    wanted = dict(averages(walk, sigma_rel))[end or STEPS]
    assert list(found) == ["unet.weight", "unet.emb_fourier.freqs"]
    assert found["unet.weight"].dtype == np.float32
    far = np.abs(walk[(end or STEPS) - 1] - wanted).max()
    assert np.abs(found["unet.weight"] - wanted).max() < 0.005 * far
    np.testing.assert_array_equal(found["unet.emb_fourier.freqs"], end or STEPS)  # not averaged


def test_one_tensor_at_a_time_is_read(snapshots):
    reads = []

    class Counting(dict):
        def __getitem__(self, name):
            reads.append(name)
            return super().__getitem__(name)

    found = posthoc.combine([each._replace(state_dict=Counting(each.state_dict)) for each in snapshots], 0.15)
    reads.clear()  # jaxtyping has looked at one
    assert found["unet.weight"].shape == SHAPE
    assert set(reads) == {"unet.weight"}


def test_snapshots_are_read_by_their_names(walk, tmp_path):
    paths = []
    for sigma in SIGMA_RELS:
        for t, average in averages(walk, sigma):
            if t % EVERY == 0:
                paths.append(tmp_path / f"network-snapshot-{t:07d}-{sigma:.3f}.pkl")
                state = {"weight": np.float32(average)}
                paths[-1].write_bytes(writer.snapshot(writer.network(state, {"label_dim": 0})))
    found = posthoc.combine([posthoc.read_snapshot(path) for path in paths], 0.07)
    wanted = dict(averages(walk, 0.07))[STEPS]
    assert np.abs(found["weight"] - wanted).max() < 0.005 * np.abs(walk[-1] - wanted).max()
    with pytest.raises(ValueError, match=r"edm2\.pkl does not say its average"):
        posthoc.read_snapshot(tmp_path / "edm2.pkl")


@pytest.mark.parametrize(
    ("change", "sigma_rel", "end", "message"),
    [
        (lambda all: [], 0.1, None, "there are none"),
        (lambda all: all, 0.1, 950, "no snapshot ends at kimg 950; there are 100, 200, "),
        (lambda all: all[-2:], 0.25, None, "sigma_rel 0.25 is too far from 0.1"),
        (lambda all: [*all, Snapshot(1, 0.1, {"other": np.zeros(1)})], 0.1, None, "not all have other, unet"),
    ],
)
def test_snapshots_that_do_not_do_are_refused(change, sigma_rel, end, message, snapshots):
    with pytest.raises(ValueError, match=message):
        dict(posthoc.combine(change(snapshots), sigma_rel, end))


def test_tensors_of_other_shapes_are_refused():
    both = [Snapshot(9, sigma, {"a": np.zeros(2), "b": np.zeros(n)}) for sigma, n in ((0.05, 3), (0.1, 4))]
    found = posthoc.combine(both, 0.1)
    with pytest.raises(ValueError, match=r"of different networks: b is \(3,\) and \(4,\)"):
        found["b"]
