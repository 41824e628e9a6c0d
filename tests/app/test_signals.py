"""Runs of signals and of other float arrays: networks along one axis, samples as floats, grids of curves and of grey."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from guided_jax import data, sampler
from guided_jax.app import experiments, facts, judge, nll, preview
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import inverse
from guided_jax.app.sweep import command as sweep
from guided_jax.app.train import command as train
from guided_jax.app.train import networks, objective
from tests.scripts import run_script
from tests.untrained import TINY, make_untrained

SIGNALS = (2 * np.sin(np.arange(30)[:, None, None] + np.arange(16)[:, None] * [0.3, 0.6])).astype(np.float32)
LABELS = np.arange(30) % 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with signals as data, and an untrained run of them: the weights of its networks are random numbers."""
    place = tmp_path_factory.mktemp("signals")
    np.savez(place / "signals.npz", SIGNALS, LABELS)
    experiment = experiments.load("signals")
    diffusion = dataclasses.replace(experiment.diffusion, network=schema.UNet(**TINY))
    classifier = dataclasses.replace(experiment.classifier, network=schema.Encoder(**TINY))
    source = schema.Data(name=f"npz:{place}/signals.npz", signals=True)
    make_untrained(place / "run", schema.Experiment(source, schema.Schedule(num_steps=20), diffusion, classifier))
    return place


def test_floats_along_one_axis_are_read_as_signals(place, tmp_path):
    train_, held_out = (data.load(f"npz:{place}/signals.npz", split, signals=True) for split in ("train", "test"))
    assert (train_.image_shape, train_.dtype, train_.signals, len(held_out)) == ((16, 1, 2), np.float32, True, 3)
    np.testing.assert_array_equal(held_out.read(np.arange(3))["image"][:, :, 0], SIGNALS[[27, 28, 29]])
    np.savez(tmp_path / "one.npz", images=SIGNALS[..., 0], labels=LABELS)
    assert data.load(f"npz:{tmp_path}/one.npz", "train", signals=True).image_shape == (16, 1, 1)
    assert data.load(f"npz:{place}/signals.npz", "train").image_shape == (16, 2, 1)  # grey float pictures, as before


@pytest.mark.parametrize("array", [np.zeros((30, 16, 2), np.int16), np.zeros((30, 4, 4, 2)), np.zeros(30)])
def test_what_is_no_signal_is_refused(array, tmp_path):
    np.savez(tmp_path / "set.npz", array, LABELS)
    with pytest.raises(ValueError, match=r"^arr_0 of .*; signals are floats \(N, length\) or \(N, length, channels\)$"):
        data.load(f"npz:{tmp_path}/set.npz", "train", signals=True)


def test_a_run_knows_its_signals_and_their_largest_value(place):
    run = runs.load(place / "run")
    assert (run.facts.kind, run.facts.stored_shape, run.model.shape) == ("signals", (16, 2), (16, 1, 2))
    assert run.bound == run.facts.bound == np.abs(SIGNALS[:27]).max()
    assert run.networks.diffusion.dims == run.networks.classifier.dims == 1
    older = json.loads((place / "run" / "config.json").read_text())["facts"]
    del older["kind"], older["bound"], older["labelling"]  # a run from before they were written down
    then = facts.of_json(older)
    assert (then.kind, then.bound, then.labelling) == ("pictures", None, "class")


def test_both_losses_take_signals(place):
    run = runs.load(place / "run")
    batch = next(data.loader(runs.source(run), 4, seed=0))
    for part in runs.PARTS:
        loss, params = (
            objective.LOSSES[part](run),
            jax.eval_shape(lambda part=part: networks.init_state(run, part).params),
        )
        keys = sampler.keys(jax.random.key(0), jnp.arange(4))
        assert jax.eval_shape(loss, params, keys, batch)[0].shape == ()


def test_samples_are_floats_within_the_range_of_the_data(place, tmp_path, capsys):
    arguments = [place / "run", "--labels", 1, "--steps", 2, "--num-samples", 5, "--devices", 1, "--out", tmp_path]
    code, _, err = run_script(sample.main, arguments, capsys)
    assert code == 0, err
    with np.load(tmp_path / "samples.npz") as found:
        signals, labels = found["arr_0"], found["arr_1"]
    assert (signals.shape, signals.dtype, labels.tolist()) == ((5, 16, 2), np.float32, [1] * 5)
    bound = np.abs(SIGNALS[:27]).max()
    assert 1 < np.abs(signals).max() <= bound  # the random network's own x_0 goes beyond
    assert Image.open(tmp_path / "grid.png").size[0] > 100


def test_a_hole_of_a_signal_is_a_stretch_of_its_length():
    for hole, hidden in {"right": range(8, 16), "left": range(8), "centre": range(4, 12), "3:5": (3, 4)}.items():
        observed = np.asarray(inverse.observed(hole, (16, 1, 2)))
        assert np.flatnonzero(observed[:, 0, 0] == 0).tolist() == list(hidden)


def test_curves_and_greys_are_drawn_where_they_belong(tmp_path):
    """Two signals at the ends of the range, in the first and the second cell; two channels side by side."""
    signals = facts.Facts((8, 1, 1), 1, (1.0,), kind="signals")
    flat = np.stack([np.full((8, 1), 1.0), np.full((8, 1), -1.0), np.full((8, 1), np.nan)])
    preview.save_grid(tmp_path / "curves.png", flat, signals, columns=3)
    dark = np.asarray(Image.open(tmp_path / "curves.png").convert("L")) < 200
    height, width = dark.shape
    up, down, none = (np.flatnonzero(dark[:, i * width // 3 : (i + 1) * width // 3].any(1)) for i in range(3))
    assert up.max() < 0.3 * height < 0.7 * height < down.min()
    assert not none.size
    arrays = facts.Facts((48, 48, 6), 1, (1.0,), kind="arrays")
    ramp = np.broadcast_to(np.arange(6.0), (2, 48, 48, 6))
    preview.save_grid(tmp_path / "grey.png", ramp, arrays, columns=2)
    row = np.asarray(Image.open(tmp_path / "grey.png"))[24, 2 : 2 + 6 * 48].reshape(6, 48)
    np.testing.assert_allclose(row, np.repeat([[0], [51], [102], [153], [204], [255]], 48, axis=1), atol=1)


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (sweep.main, ["--guidance", "classifier-free"], "a sweep is for pictures, and this run is of signals"),
        (nll.main, [], "guided-jax nll is for pictures"),
        (judge.main, [], "a judge is for pictures"),
        (sample.main, ["--guidance", "pigdm", "--measure", "held-out", "--hole", "12:20"], "within 16x1"),
    ],
)
def test_what_measures_pictures_refuses_signals(main, arguments, words, place, tmp_path, capsys):
    code, _, err = run_script(main, [place / "run", *arguments, "--out", tmp_path / "out"], capsys)
    assert (code, words in err, len(err.splitlines())) == (2, True, 1), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.flip"], "--data.flip is for pictures; leave it out with --data.signals"),
        (["--data.image-size", "8"], "--data.image-size is for pictures"),
        (["--data.crop", "none"], "--data.crop is for pictures"),
        (["--diffusion.low-res", "4"], "--diffusion.low-res is for pictures"),
        (["--diffusion.measure-every", "10"], "--diffusion.measure-every is for pictures"),
        (["--data.name", "digits"], "signals are read from npz:PATH, and digits is not; leave out --data.signals"),
        (["--diffusion.network.channel-mult", "1", "1", "1", "1", "1", "1"], "a signal of 16 cannot be halved 5 times"),
    ],
)
def test_training_on_signals_refuses_what_is_for_pictures(arguments, words, place, tmp_path, capsys):
    name = [] if "--data.name" in arguments else ["--data.name", f"npz:{place}/signals.npz"]
    code, _, err = run_script(train.main, ["signals", *name, *arguments, "--out", tmp_path / "run"], capsys)
    assert (code, words in err) == (2, True), err
    assert not (tmp_path / "run").exists()


def test_training_says_what_it_trains_on(place):
    run = runs.load(place / "run")
    said = facts.describe(run.facts)
    assert said == "training on 27 signals of 16 x 2 (length x channels), of absolute values up to 2"
    assert "scale them" in facts.describe(run.facts._replace(bound=1000.0))
    assert facts.describe(facts.Facts((8, 8, 1), 1, (1.0,))) is None
