"""The two scripts by command line: a tiny run from data to pictures, its resumption, and what wrong use is told."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from guided_jax.app import config_file, experiments, facts
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import guidance_rows, guidances
from guided_jax.app.sample.labels import labels_of
from guided_jax.app.train import command as train
from guided_jax.storage import checkpoint, images, log
from tests import tiny_clip
from tests.app.test_fewer_calls_commands import DRAWN
from tests.app.test_published_run import WORSE
from tests.scripts import NETWORKS, ROOT, SMALL, run_script


def test_a_run_holds_everything(tiny):
    assert runs.load(tiny).experiment.diffusion.num_steps == 4
    assert runs.load(tiny).facts.class_names == tuple("0123456789")
    for part, steps in (("diffusion", 4), ("classifier", 3)):
        assert checkpoint.latest(tiny / part / "checkpoints") == steps
        assert [row["step"] for row in log.read(tiny / part / "metrics.jsonl")] == list(range(1, steps + 1))
        assert Image.open(tiny / part / "curves.png").size[0] > 100
    assert "accuracy" in log.read(tiny / "classifier" / "metrics.jsonl")[0]
    assert Image.open(tiny / "diffusion" / "samples-000004.png").size[0] > 100


def test_config_round_trip():
    experiment = experiments.load("digits")
    assert schema.from_dict(schema.to_dict(experiment)) == experiment
    with pytest.raises(ValueError, match="speed"):
        schema.from_dict({"speed": 3})


@pytest.mark.slow
def test_interrupted_and_resumed_is_uninterrupted(tiny, tmp_path, capsys):
    """Stopped after two of four steps, the same command ends at the same weights, bit for bit."""
    arguments = ["digits", "--out", tmp_path / "run", "--data.dir", tiny.parent / "data", *SMALL]
    short = [*arguments, "--classifier.num-steps", "0"]
    stopped = {"steps": 0}

    class Killed(BaseException):
        pass

    def make_hooks(run, out):
        def stop(done, state):
            stopped["steps"] = done
            raise Killed

        return [(3, stop)]

    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(train.grids, "make_hooks", make_hooks)
        with pytest.raises(Killed):
            train.main([str(argument) for argument in short])
    assert stopped["steps"] == 3
    assert checkpoint.latest(tmp_path / "run" / "diffusion" / "checkpoints") == 2
    code, _, _ = run_script(train.main, short, capsys)
    assert code == 0
    for which in ("ema", "params"):
        got = checkpoint.load_params(tmp_path / "run" / "diffusion" / "checkpoints", which)
        want = checkpoint.load_params(tiny / "diffusion" / "checkpoints", which)
        jax.tree.map(np.testing.assert_array_equal, got, want)
    assert (tmp_path / "run/diffusion/metrics.jsonl").read_text() == (tiny / "diffusion/metrics.jsonl").read_text()


def test_a_finished_run_stays_as_it_is(tiny, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny.glob("*/checkpoints/*"))
    arguments = ["digits", "--out", tiny, "--data.dir", tiny.parent / "data", *SMALL]
    assert run_script(train.main, arguments, capsys)[0] == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny.glob("*/checkpoints/*")) == before


BY_CLASSIFIER = ["--guidance", "classifier", "--scale", 2, "--sampler", "ddpm"]
FIVE = ["--steps", "ddim5", "--num-samples", 5, "--batch-size", 4]
METHODS = [
    BY_CLASSIFIER,
    ["--guidance", "classifier-free", "--scale", 0, 3, "--labels", 1, 7],
    ["--guidance", "classifier-free+interval+rescale+ramp+dynamic", "--scale", 3],
]
# Labels are those of classifier-free guidance, and pictures without one, which are measured, those of repaint below.
PLAIN = [
    ["--guidance", "none"],
    ["--guidance", "none", "--labels", 3, 7],
    ["--guidance", "classifier-free", "--scale", 3, "--eta", 0.5, "--steps", "2,3"],
    ["--guidance", "mmps", "--iterations", 2, "--noise-std", 0.1, "--measure", "held-out", "--scale", 1, 0],
]
# More of them, each with the options that it cannot do without.
REST = {
    **dict.fromkeys(("zero-star", "independent", "off-the-shelf", "universal"), ()),
    "perturbed-attention+interval": ["--label-scale", 2, "--labels", 3, "--scale", 3, "--interval-high", 2],
    "smoothed-energy": (),
    "training-free": ["--criterion", "colour:200", "--recurrence", 2, "--smoothing-samples", 2],
    "self-attention": ["--attention-mask"],
    "autoguidance": ["--bad", "RUN"],
    "domain": ["--bad", "RUN"],
    "clip": ["--clip-model", "CLIP", "--clip-text", "a zebra", "a horse:-0.5", "--cutouts", 2, "--labels", 3],
    "negative": ["--negative", 3],
    "gibbs-like": ["--repeats", 2, "--calls", 2, "--renoise", 0.5, "--labels", 3],
    "cfg++": ["--scale", 0.6],
    "compose": ["--also", 5, 8, "--also-scale", 1.0, -1.0, "--scale", 2, "--labels", 3],
    "pigdm": ["--operator", "super-resolution", "--noise-std", 0.1, "--measure", "held-out", "--labels", 3],
    "tangential+anneal": ["--anneal-std", 1, "--scale", 3, "--labels", 3],
    "adaptive": ["--stop-cosine", -1],
    "reused": ["--every", 2],
    "frequency-decoupled": ["--scale", 3, "--coarse-scales", 1.5, 1, "--labels", 3],
    "magnitude-aware+rescale": ["--scale", 5, "--damping", 2, "--labels", 3],
    "projected+ramp": ["--sampler", "ddpm"],
    "classifier": ["--sampler", "ddpm", "--at", "mean", "--variance", "large"],
    "dps": ["--measure", "held-out", "--operator", "blur", "--sampler", "ddpm"],
    "ddnm": ["--measure", "held-out", "--operator", "super-resolution", "--noise-std", 0.1],
    "diffpir+dynamic": ["--measure", "held-out", "--noise-std", 0.1, "--prior-weight", 2, "--zeta", 0.5, "--labels", 3],
    "daps": [
        "--measure",
        "held-out",
        "--operator",
        "jpeg",
        "--quality",
        30,
        "--noise-std",
        0.1,
        "--calls",
        2,
        "--iterations",
        5,
    ],
    "split-gibbs": ["--measure", "held-out", "--operator", "motion", "--noise-std", 0.1, "--calls", 2],
    "repaint+dynamic": ["--measure", "held-out", "--hole", "centre", "--sampler", "ddpm"],
}


@pytest.mark.parametrize(
    "method",
    [*METHODS, *(pytest.param(method, marks=pytest.mark.slow) for method in PLAIN)],
    ids=lambda method: " ".join(str(word) for word in method),
)
def test_sample(tiny, tmp_path, capsys, method):
    arguments = [tiny, *FIVE, *method, "--out", tmp_path / "out"]
    code, out, err = run_script(sample.main, arguments, capsys)
    assert code == 0, err
    assert "samples.npz" in out
    pictures, labels = images.load_npz(tmp_path / "out" / "samples.npz")
    assert pictures.shape == (5, 8, 8, 1)
    told = "--labels" in method or guidance_rows.GUIDANCES[guidances.parse(method[1])[0]].labelled
    assert (labels != -1).all() if told else (labels == -1).all()
    if "--labels" in method:
        given = [word for word in method[method.index("--labels") + 1 :] if isinstance(word, int)]
        np.testing.assert_array_equal(labels, np.resize(given, 5))
    assert Image.open(tmp_path / "out" / "grid.png").size[0] > 100


def test_every_guidance_of_the_list_is_drawn_somewhere(capsys):
    code, out, _ = run_script(sample.main, ["--list"], capsys)
    used = {guidances.parse(name)[0] for name in (*(method[1] for method in (*METHODS, *PLAIN)), *REST, *WORSE, *DRAWN)}
    assert code == 0
    assert used == set(guidance_rows.GUIDANCES)
    assert all(name in out for name in (*guidance_rows.GUIDANCES, *guidances.MODIFIERS))


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_the_rest_of_the_list(tiny, tmp_path, capsys, name):
    arguments = [tiny, "--guidance", name, "--steps", 3, "--num-samples", 2, "--out", tmp_path / "out"]
    extra = [tiny if word == "RUN" else word for word in REST[name]]
    if "CLIP" in extra:
        extra[extra.index("CLIP")] = tiny_clip.own(tmp_path / "clip")
    code, out, err = run_script(sample.main, [*arguments, *extra], capsys)
    assert code == 0, err
    # Of 2 samples in 3 steps, of which the first calls both: every cosine is above -1, and every second one is reused.
    saved = {"adaptive": 4, "reused": 2}
    assert ("left out" in out) == (name in saved)
    assert name not in saved or f"{name} left out {saved[name]} of 6 calls of the unconditional model" in out


def test_what_was_seen_is_kept_and_shown(tiny, tmp_path, capsys):
    """repaint ends on the known part itself, by two masks in turn; measured.png lies beside grid.png, row for row."""
    holes = np.zeros((2, 8, 8, 1), np.uint8)
    holes[0, :, :4], holes[1, 6:] = 255, 255
    images.save_png(tmp_path / "left.png", holes[0])
    images.save_npz(tmp_path / "bottom.npz", holes[1:])
    masks = [tmp_path / "left.png", tmp_path / "bottom.npz"]
    arguments = ["--guidance", "repaint", "--measure", "held-out", "--mask", *masks, "--repeats", 2, "--steps", 3]
    batch = ["--num-samples", 5, "--batch-size", 4]
    code, _, err = run_script(sample.main, [tiny, *arguments, *batch, "--out", tmp_path], capsys)
    assert code == 0, err
    truth = runs.load(tiny).experiment.data.make(held_out=True).read(np.arange(5))["image"]
    painted, labels = images.load_npz(tmp_path / "samples.npz")
    far = np.abs(painted.astype(int) - truth)
    for which, hole in ((slice(0, None, 2), holes[0] > 0), (slice(1, None, 2), holes[1] > 0)):
        assert far[which][:, ~hole].max() <= 1  # to_uint8 truncates
        assert far[which][:, hole].max() > 1
    assert (labels == -1).all()
    grid, seen = (np.asarray(Image.open(tmp_path / name)) for name in ("grid.png", "measured.png"))
    assert grid.shape == seen.shape
    assert np.abs(grid[2:50, 2 + 24 : 50].astype(int) - seen[2:50, 2 + 24 : 50]).max() <= 1
    assert (seen[2:50, 2:26] == 127).all()


@pytest.mark.slow
def test_diagnostics_of_any_of_several_labels(tiny, tmp_path, capsys):
    """A row for each sample of the first batch, a column for each step; scale 0 is no guidance."""
    arguments = ["--guidance", "classifier", "--any-of", 3, 5, "--temperature", 0.5, "--scale", 0, 1e6, "--diagnose"]
    batch = ["--num-samples", 6, "--batch-size", 4, "--steps", 3]
    code, _, err = run_script(sample.main, [tiny, *arguments, *batch, "--out", tmp_path], capsys)
    assert code == 0, err
    with np.load(tmp_path / "diagnostics.npz") as found:
        rows = dict(found)
    assert {name: rows.pop(name).shape for name in ("t", "noise")} == {"t": (3,), "noise": (3,)}
    assert set(rows) == {"guidance", "score", "cosine", "log_prob", "clipped"}
    assert all(value.shape == (4, 3) and np.isfinite(value).all() for value in rows.values())
    assert (rows["guidance"][::2] < 1e-3 * rows["score"][::2]).all()
    assert (rows["guidance"][1::2].max(1) > 1e-3 * rows["score"][1::2].max(1)).all()
    assert (rows["log_prob"] < 0).all()
    assert (images.load_npz(tmp_path / "samples.npz")[1] == -1).all()
    assert Image.open(tmp_path / "diagnostics.png").size[0] > 100
    again = [tiny, "--steps", 3, "--num-samples", 2, "--out", tmp_path, "--overwrite"]
    code, _, err = run_script(sample.main, [*again, "--devices", 99], capsys)
    assert (code, (tmp_path / "diagnostics.png").exists()) == (2, True), err


REQUEST = ["--guidance", "classifier-free", "--scale", 2, "--steps", 4, "--num-samples", 6]


def drawn(tiny, out, capsys, *extra):
    code, _, err = run_script(sample.main, [tiny, *REQUEST, *extra, "--out", out], capsys)
    assert code == 0, err
    return images.load_npz(out / "samples.npz")


def test_an_image_depends_on_the_seed_and_its_index_alone(tiny, tmp_path, capsys):
    whole, labels = drawn(tiny, tmp_path / "a", capsys, "--batch-size", 8)
    other, same = drawn(tiny, tmp_path / "chunks", capsys, "--batch-size", 3, "--devices", 1)
    np.testing.assert_array_equal(same, labels)
    np.testing.assert_allclose(other.astype(int), whole.astype(int), atol=1)
    assert (drawn(tiny, tmp_path / "b", capsys, "--batch-size", 8, "--seed", 1)[0] != whole).any()


CHUNKS = ["--batch-size", 2, "--devices", 2]


@pytest.fixture(scope="module")
def whole_request(tiny, tmp_path_factory):
    """The pictures and labels of a request in three chunks, which nothing stops."""
    out = tmp_path_factory.mktemp("whole")
    sample.main([str(word) for word in (tiny, *REQUEST, *CHUNKS, "--out", out)])
    return images.load_npz(out / "samples.npz")


@pytest.mark.parametrize("trained_on", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_request_goes_on_without_repeating_or_losing_an_image(
    tiny, whole_request, tmp_path, capsys, monkeypatch, trained_on
):
    """Stopped after its second chunk, the same command draws only what is left and ends at the same file; and all of it
    when the network was trained on meanwhile."""
    whole, labels = whole_request
    put, drawn_rows = sample.streaming.put, []

    def killed(stream, start, *rows):
        if start == 4 and "again" not in drawn_rows:
            raise KeyboardInterrupt
        put(stream, start, *rows)

    make_sampler = sample.draw.make_sampler

    def counted(*arguments):
        call = make_sampler(*arguments)
        return lambda params, indices, *rest: drawn_rows.append(list(indices)) or call(params, indices, *rest)

    monkeypatch.setattr(sample.draw, "make_sampler", counted)
    monkeypatch.setattr(sample.streaming, "put", killed)
    arguments = [tiny, *REQUEST, *CHUNKS]
    code, _, err = run_script(sample.main, [*arguments, "--out", tmp_path / "out"], capsys)
    assert (code, "goes on" in err) == (130, True)
    assert not (tmp_path / "out" / "samples.npz").exists()
    drawn_rows.append("again")
    if trained_on:
        steps = sample.trained_steps
        monkeypatch.setattr(sample, "trained_steps", lambda options, run: {**steps(options, run), "diffusion": 5})
    assert run_script(sample.main, [*arguments, "--out", tmp_path / "out"], capsys)[0] == 0
    assert drawn_rows[drawn_rows.index("again") + 1 :] == ([[0, 1], [2, 3], [4, 5]] if trained_on else [[4, 5]])
    pictures, told = images.load_npz(tmp_path / "out" / "samples.npz")
    np.testing.assert_array_equal(pictures, whole)
    np.testing.assert_array_equal(told, labels)


def test_labels_follow_the_data_when_none_are_given():
    known = facts.Facts((8, 8, 1), 3, (0.5, 0.5, 0.0))
    labels = labels_of(np.arange(4000), None, known, 0)
    np.testing.assert_allclose(np.bincount(labels, minlength=3) / 4000, known.class_frequencies, atol=0.03)
    np.testing.assert_array_equal(labels_of(np.arange(7, 9), None, known, 0), labels[7:9])


def test_other_samples_are_not_overwritten(tiny, tmp_path, capsys):
    first, _ = drawn(tiny, tmp_path, capsys)
    arguments = [tiny, *REQUEST, "--seed", 1, "--out", tmp_path]  # a program that is compiled already
    code, _, err = run_script(sample.main, arguments, capsys)
    assert (code, "--overwrite" in err) == (2, True)
    np.testing.assert_array_equal(images.load_npz(tmp_path / "samples.npz")[0], first)
    assert run_script(sample.main, [*arguments, "--overwrite"], capsys)[0] == 0
    assert (images.load_npz(tmp_path / "samples.npz")[0] != first).any()


WRONG_TRAINING = {
    "there is no experiment 'digit'": ["digit"],
    "--diffusion.foo": ["digits", "--diffusion.foo", "3"],
    "'many'": ["digits", "--diffusion.num-steps", "many"],
    "--diffusion.num-steps is -4": ["digits", "--diffusion.num-steps", "-4"],
    "--classifier.batch-size is 0": ["digits", "--classifier.batch-size", "0"],
    "--diffusion.checkpoint-every is 0": ["digits", "--diffusion.checkpoint-every", "0"],
    "--diffusion.label-dropout is 1.5": ["digits", "--diffusion.label-dropout", "1.5"],
    "--diffusion.ema-decay is -1": ["digits", "--diffusion.ema-decay", "-1"],
    "no data set called 'cats'": ["digits", "--data.name", "cats"],
    "--schedule.num-steps is 0": ["digits", "--schedule.num-steps", "0"],
    "outside (0, 1]": ["digits", "--schedule.name", "linear", "--schedule.num-steps", "10"],
    "cannot be halved 4 times": ["digits", "--diffusion.network.channel-mult", "1", "1", "1", "1", "1"],
    "99 devices": ["digits", "--devices", "99"],
    "does not divide over 5": ["digits", "--devices", "5", "--diffusion.batch-size", "8"],
    "'quadratic'": ["digits", "--schedule.name", "quadratic"],
    "--diffusion.batch-size is -1": ["digits", "--diffusion.batch-size", "-1"],
    "--diffusion.log-every is 0": ["digits", "--diffusion.log-every", "0"],
    "--diffusion.sample-every is -1": ["digits", "--diffusion.sample-every", "-1"],
    "--classifier.ema-decay is 2.0": ["digits", "--classifier.ema-decay", "2"],
    "'0.5'": ["digits", "--diffusion.num-steps", "0.5"],
    "'never'": ["digits", "--diffusion.checkpoint-every", "never"],
    "'w'": ["digits", "--diffusion.parameterization", "w"],
    "'mean'": ["digits", "--classifier.network.pool", "mean"],
    "'float8'": ["digits", "--diffusion.network.dtype", "float8"],
    "--devices is 0": ["digits", "--devices", "0"],
    "--shard-group has no effect without --shard-parameters": ["digits", "--shard-group", "2"],
    "--shard-group is 3, which does not divide the 8 devices": [
        *("digits", "--devices", 8, "--shard-parameters", "--shard-group", "3")
    ],
    "--shard-group is 8, which does not divide the 6 devices of a batch": [
        *(
            "digits",
            "--diffusion.batch-size",
            8,
            "--classifier.batch-size",
            12,
            "--shard-parameters",
            "--shard-group",
            "8",
        )
    ],
    "--seed": ["digits", "--seed", "lucky"],
    "--schedule.num-steps is -7": ["digits", "--schedule.num-steps", "-7"],
    "cannot be split into 7 norm groups": ["digits", *NETWORKS, "--diffusion.network.num-groups", "7"],
    "heads of 5 channels": ["digits", *NETWORKS, "--diffusion.network.num-head-channels", "5"],
    "no split 'validation'": ["digits", "--data.split", "validation"],
    "add --diffusion.num-steps 0": ["digits", "--diffusion.from", "somewhere"],
    "somewhere is not a run": ["digits", "--diffusion.from", "somewhere", "--diffusion.num-steps", "0"],
    "elsewhere is not a run": ["digits", "--diffusion.init-from", "elsewhere"],
    "nowhere has no effect with --classifier.num-steps 0": [
        *("digits", "--classifier.init-from", "/nowhere", "--classifier.num-steps", "0")
    ],
    "'folder'": ["digits", "--data.name", "folder"],
    "nowhere": ["digits", "--data.name", "folder:nowhere"],
    "nowhere.npz": ["digits", "--data.name", "npz:nowhere.npz"],
    "nothing-there": ["digits", "--data.name", "idx:nothing-there"],
}


@pytest.mark.parametrize(("words", "arguments"), WRONG_TRAINING.items(), ids=WRONG_TRAINING)
def test_wrong_training_is_told_in_one_sentence(words, arguments, tiny, tmp_path, capsys):
    place = ["--out", tmp_path / "run", "--data.dir", tiny.parent / "data"]
    code, _, err = run_script(train.main, [*arguments, *place], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("run/*/checkpoints/*"))
    assert "--shard-group" not in words or not (tmp_path / "run").exists()


SEEN = ("--measure", "held-out")
WRONG_SAMPLING = {
    "there is no class 'cat'; there is 0, 1, 2, 3, 4, 5, 6, 7, ..., or give a number from 0 to 9": [
        "--labels",
        "3",
        "cat",
    ],
    "label 10 is out of range": ["--labels", "3", "10"],
    "label -1 is out of range": ["--labels", "-1"],
    "'strong'": ["--scale", "strong"],
    "finite": ["--scale", "nan"],
    "--num-samples is 1000000000000; give a number from 1 to 2147483647": ["--num-samples", "1000000000000"],
    "--num-samples is 1000001; a sweep draws up to 1000000": [
        *("--guidance", "classifier-free", "--sweep", "1", "--num-samples", "1000001")
    ],
    "--num-samples is -5": ["--num-samples", "-5"],
    "--batch-size is 0": ["--batch-size", "0"],
    "--shard-group has no effect here; it goes with --shard-parameters": ["--shard-group", "2"],
    "--shard-group is 3, which does not divide the 4 devices": [
        "--shard-parameters",
        "--shard-group",
        "3",
        "--devices",
        "4",
    ],
    "--eta is -0.5": ["--eta", "-0.5"],
    "cannot read the steps 'few'": ["--steps", "few"],
    "50 steps": ["--sampler", "ddim", "--steps", "50"],
    "'magic'": ["--guidance", "magic"],
    "'sparkle'": ["--guidance", "classifier-free+sparkle"],
    "only +ramp, +dynamic, +anneal can follow projected": ["--guidance", "projected+interval"],
    "only +dynamic can follow none": ["--guidance", "none+rescale"],
    "--anneal-low is 0.95 and --anneal-high 0.9": ["--guidance", "classifier-free+anneal", "--anneal-low", 0.95],
    "--anneal-std has no effect here; it goes with +anneal": ["--guidance", "classifier-free", "--anneal-std", 1],
    "can follow classifier, not 'classifier+anneal'": ["--guidance", "classifier+anneal"],
    "--label-scale guides towards labels": ["--guidance", "perturbed-attention", "--label-scale", 3],
    "--label-scale has no effect here": ["--guidance", "classifier-free", "--label-scale", 3],
    "are for one guidance alone; leave out --label-scale": [
        *("--guidance", "perturbed-attention+rescale", "--label-scale", 3, "--labels", 3)
    ],
    "unipc reads x_0 alone": ["--guidance", "cfg++", "--sampler", "unipc"],
    "can follow cfg++, not 'cfg+++dynamic'": ["--guidance", "cfg+++dynamic"],
    "leave out one of the two": ["--guidance", "classifier-free+dynamic", "--no-clip"],
    "--scale has no effect with --guidance none": ["--scale", "2"],
    "it goes with --sampler ddim": ["--sampler", "ddpm", "--eta", "0.5"],
    "it goes with --sampler ddpm": ["--variance", "large"],
    "it goes with --guidance classifier --sampler ddpm": ["--guidance", "classifier", "--at", "mean"],
    "--negative has no effect here": ["--negative", "3"],
    "--interval-low has no effect here": ["--guidance", "classifier-free", "--interval-low", "0.2"],
    "--noise-std has no effect here": ["--noise-std", "0.1"],
    "--data-std has no effect here; it goes with --guidance pigdm": ["--guidance", "dps", *SEEN, "--data-std", "1"],
    "--iterations has no effect here; it goes with --guidance training-free or --guidance mmps or --guidance daps": [
        "--guidance",
        "pigdm",
        *SEEN,
        "--iterations",
        "2",
    ],
    "--iterations is 0; give at least 1": ["--guidance", "mmps", *SEEN, "--iterations", "0"],
    "--calls has no effect here; it goes with --guidance gibbs-like or --guidance daps or --guidance split-gibbs": [
        *("--guidance", "mmps", *SEEN, "--calls", "3")
    ],
    "--zeta is 1.5; give a number from 0 to 1": ["--guidance", "diffpir", *SEEN, "--zeta", "1.5"],
    "--prior-weight is 0": ["--guidance", "diffpir", *SEEN, "--prior-weight", "0"],
    "ddnm makes steps of its own; leave out --sampler ddim": ["--guidance", "ddnm", *SEEN, "--sampler", "ddim"],
    "--eta has no effect here": ["--guidance", "split-gibbs", *SEEN, "--eta", "1"],
    "--scale has no effect with --guidance ddnm": ["--guidance", "ddnm", *SEEN, "--scale", "2"],
    "daps needs a noisy measurement; give --noise-std above 0": ["--guidance", "daps", *SEEN],
    "it goes with --operator blur": ["--guidance", "pigdm", *SEEN, "--blur-std", "2"],
    "--measure held-out or FILE": ["--guidance", "pigdm"],
    "cannot read nowhere.npz": ["--guidance", "pigdm", "--measure", "nowhere.npz"],
    "neither an npz file nor a picture": ["--guidance", "pigdm", "--measure", __file__],
    "the run draws (8, 8, 1)": ["--guidance", "pigdm", "--measure", str(ROOT / "docs/images/digits.png")],
    "--image has pictures of (": ["--image", str(ROOT / "docs/images/digits.png")],
    "--strength has no effect here; it goes with --image": ["--strength", "0.5"],
    "--strength is 0.0; give a number above 0, up to 1": ["--image", "held-out", "--strength", "0"],
    "--strength is 0.1, less than one of 5 steps; give a higher one, or more --steps": [
        *("--image", "held-out", "--strength", "0.1")
    ],
    "--mask has pictures of (342, 758, 1), the run draws (8, 8, 1); give masks of that height and width": [
        *("--guidance", "dps", *SEEN, "--mask", str(ROOT / "docs/images/digits.png"))
    ],
    "--mask stands in the place of --hole": ["--guidance", "dps", *SEEN, "--mask", "a.png", "--hole", "left"],
    "--mask has no effect here; it goes with --image or --operator mask": [
        "--guidance",
        "dps",
        *SEEN,
        "--operator",
        "blur",
        "--mask",
        "a",
    ],
    "pigdm needs a linear measurement; use daps, mmps or dps for --operator jpeg": [
        *("--guidance", "pigdm", *SEEN, "--operator", "jpeg")
    ],
    "--quality is 0": ["--guidance", "dps", *SEEN, "--operator", "jpeg", "--quality", "0"],
    "--exposure has no effect here; it goes with --operator clipping": ["--guidance", "dps", *SEEN, "--exposure", "3"],
    "--hole is 'middle'": ["--guidance", "dps", *SEEN, "--hole", "middle"],
    "within 8x8": ["--guidance", "dps", *SEEN, "--hole", "0:9,0:4"],
    "does not divide pictures of 8x8": ["--guidance", "dps", *SEEN, "--operator", "super-resolution", "--factor", "3"],
    "repaint fills holes only": ["--guidance", "repaint", *SEEN, "--operator", "blur"],
    "--repeats is 0": ["--guidance", "repaint", *SEEN, "--repeats", "0"],
    "--noise-std is -1": ["--guidance", "pigdm", *SEEN, "--noise-std", "-1"],
    "--data-std is 0": ["--guidance", "pigdm", *SEEN, "--data-std", "0"],
    "--temperature is 0": ["--guidance", "classifier", "--temperature", "0"],
    "'fog'": ["--guidance", "pigdm", *SEEN, "--operator", "fog"],
    "name them with --also": ["--guidance", "compose"],
    "--also has 2 labels and --also-scale 1": ["--guidance", "compose", "--also", "3", "5", "--also-scale", "-1"],
    "--also-scale is nan": ["--guidance", "compose", "--also", "3", "--also-scale", "nan"],
    "label 12 is out of range": ["--guidance", "compose", "--also", "12"],
    "label 11 is out of range": ["--guidance", "classifier", "--any-of", "3", "11"],
    "in the place of --labels": ["--guidance", "classifier", "--any-of", "3", "--labels", "5"],
    "--bad RUN": ["--guidance", "autoguidance"],
    "needs a CLIP; name its folder by --clip-model": ["--guidance", "clip", "--clip-text", "a cat"],
    "--clip-model: there is no folder nowhere": [
        "--guidance",
        "clip",
        "--clip-model",
        "nowhere",
        "--clip-text",
        "a cat",
    ],
    "--clip-text has no effect here; it goes with --guidance clip": ["--clip-text", "a cat"],
    "--cutouts is 0": ["--guidance", "clip", "--cutouts", "0"],
    "--in pixels is for runs of latents": ["--guidance", "universal", "--in", "pixels"],
    "--in has no effect here; it goes with --guidance off-the-shelf": ["--guidance", "none", "--in", "latents"],
    "--criterion has no effect here; it goes with --guidance off-the-shelf": ["--criterion", "colour:1"],
    "--rho has no effect here; it goes with --guidance training-free": ["--guidance", "universal", "--rho", "1"],
    "--mu is -1": ["--guidance", "training-free", "--mu=-1"],
    "--recurrence is 0; give at least 1": ["--guidance", "training-free", "--recurrence", "0"],
    "only +ramp can follow training-free": ["--guidance", "training-free+interval"],
    "--criterion is colour:1,2,3; give 1 numbers from 0 to 255, such as colour:128": [
        *("--guidance", "training-free", "--criterion", "colour:1,2,3")
    ],
    "--criterion is 'cat'; give classifier, clip, colour:R,G,B, picture:FILE, style:FILE or FILE.py:function": [
        *("--guidance", "universal", "--criterion", "cat")
    ],
    "there is no file nowhere.py; give --criterion FILE.py:function": [
        *("--guidance", "off-the-shelf", "--criterion", "nowhere.py:mine")
    ],
    "has no function mine; define it as mine(picture, level)": [
        *("--guidance", "training-free", "--criterion", f"{ROOT / 'configs/digits.py'}:mine")
    ],
    "the run draws (8, 8, 1); resize it": [
        *("--guidance", "training-free", "--criterion", f"picture:{ROOT / 'docs/images/digits.png'}")
    ],
    "--any-of has no effect with --criterion colour:9; leave out one of the two": [
        *("--guidance", "universal", "--criterion", "colour:9", "--any-of", "3")
    ],
    "nowhere is no trained judge; train one with": ["--guidance", "universal", "--clean-classifier", "nowhere"],
    "--attention-mask has no effect here": ["--guidance", "perturbed-attention", "--attention-mask"],
    "names 'middle', and this network takes middle_block": [
        *("--guidance", "perturbed-attention", "--perturb-blocks", "middle")
    ],
    "nowhere is not a run": ["--guidance", "autoguidance", "--bad", "nowhere"],
    "--negative is None": ["--guidance", "negative"],
    "--negative is 10": ["--guidance", "negative", "--negative", "10"],
    "'euler'": ["--sampler", "euler"],
    "99 devices": ["--devices", "99"],
    "does not divide over 3": ["--devices", "3", "--batch-size", "8"],
    "--devices is 0": ["--devices", "0"],
    "--eta is nan": ["--eta", "nan"],
    "--eta is 1.5": ["--eta", "1.5"],
    "'3.5'": ["--labels", "3.5"],
    "'x'": ["--seed", "x"],
    "--scale is inf": ["--scale", "inf"],
    "--steps is 0": ["--steps", "0"],
    "cannot read the steps '-3'": ["--steps=-3"],
    "no constant stride": ["--steps", "ddim19"],
    "cannot take 30 steps from a section of 10": ["--steps", "5,30"],
    "did not learn a variance": ["--sampler", "ddpm", "--variance", "learned"],
    "'x_0'": ["--at", "x_0"],
    "--diffusion.num-steps": ["--diffusion.num-steps", "3"],
    "--num-samples is 0": ["--num-samples", "0"],
    "'lots'": ["--num-samples", "lots"],
}


@pytest.mark.parametrize(("words", "arguments"), WRONG_SAMPLING.items(), ids=WRONG_SAMPLING)
def test_wrong_sampling_is_told_in_one_sentence(words, arguments, tiny, tmp_path, capsys):
    steps = [] if "--steps" in arguments else ["--steps", "5"]
    code, _, err = run_script(sample.main, [tiny, *steps, *arguments, "--out", tmp_path / "out"], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "samples.npz").exists()


def test_another_configuration_in_the_same_place_is_refused_by_its_fields(tiny, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    arguments = [
        "digits",
        "--out",
        tmp_path,
        "--data.dir",
        tiny.parent / "data",
        *SMALL,
        "--diffusion.ema-decay",
        "0.5",
    ]
    code, _, err = run_script(train.main, arguments, capsys)
    assert (code, "diffusion.ema_decay: 0.995 -> 0.5" in err) == (2, True)


def test_data_that_changed_since_the_run_began_is_refused(tmp_path):
    experiment, known = experiments.load("digits"), facts.Facts((8, 8, 1), 2, (0.5, 0.5), 100)
    config_file.create(tmp_path, experiment, known)
    config_file.create(tmp_path, experiment, known)
    assert runs.load(tmp_path).facts == known
    for now, words in (
        (known._replace(num_examples=101), r"\(num_examples: 100 -> 101\)"),
        (known._replace(class_frequencies=(0.4, 0.6)), r"\(as many examples, of other classes\)"),
    ):
        with pytest.raises(ValueError, match=rf"^the data is not what .* began with {words}; restore it, or"):
            config_file.create(tmp_path, experiment, now)
    older = json.loads((tmp_path / "config.json").read_text())
    del older["facts"]["num_examples"], older["facts"]["class_names"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    config_file.create(tmp_path, experiment, known)  # a run from before it was written down


@pytest.mark.slow  # in the fast suite the run that it is for is found without training, below
def test_a_classifier_alone_for_somebody_elses_diffusion_run(tiny, tmp_path, capsys):
    """It takes the other run's schedule and network, trains only the classifier, and samples with both."""
    data_dir = ["--data.dir", tiny.parent / "data"]
    alone = ["--diffusion.num-steps", "0", "--diffusion.from", tiny, "--classifier.num-steps", "3", *NETWORKS[8:]]
    batch = ["--classifier.batch-size", "8", "--classifier.eval-examples", "16"]
    code, _, err = run_script(train.main, ["digits", "--out", tmp_path / "run", *data_dir, *alone, *batch], capsys)
    assert code == 0, err
    assert not (tmp_path / "run" / "diffusion").exists()
    assert runs.load(tmp_path / "run").model.levels.t.size == 21
    jax.tree.map(
        np.testing.assert_array_equal, runs.params(tmp_path / "run", "diffusion"), runs.params(tiny, "diffusion")
    )
    draw = [tmp_path / "run", *BY_CLASSIFIER, *FIVE, "--out", tmp_path / "out"]  # a program that is compiled already
    assert run_script(sample.main, draw, capsys)[0] == 0


def test_a_classifier_for_a_run_that_adopted_its_diffusion_model_itself(tiny, tmp_path, monkeypatch):
    """The third run names the first, where the network is; runs of before named the second."""

    def adopt(name, source):
        settings = schema.Experiment(diffusion=schema.Diffusion(num_steps=0, from_run=source))
        config_file.create(tmp_path / name, runs.adopt(settings), runs.load(tiny).facts)
        return runs.load(tmp_path / name).experiment.diffusion.from_run

    with monkeypatch.context() as patch:  # whether it is there is seen without reading it
        patch.setattr(runs.checkpoint, "load_params", lambda *_: pytest.fail("the parameters are read"))
        assert adopt("second", tiny) == tiny
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with pytest.raises(
        ValueError, match=r"empty has no trained diffusion network; train it with --diffusion.num-steps"
    ):
        adopt("none", tmp_path / "empty")
    assert adopt("third", tmp_path / "second") == tiny
    config = json.loads((tmp_path / "third" / "config.json").read_text())
    config["experiment"]["diffusion"]["from_run"] = str(tmp_path / "second")
    (tmp_path / "third" / "config.json").write_text(json.dumps(config))
    found = runs.params(tmp_path / "third", "diffusion")
    jax.tree.map(np.testing.assert_array_equal, found, runs.params(tiny, "diffusion"))


def test_the_first_of_several_processes_describes_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(config_file.parallel, "primary", lambda: False)
    config_file.create(tmp_path, experiments.load("digits"), facts.Facts((8, 8, 1), 2, (0.5, 0.5), 100))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["digits", "--help"]])
def test_help_ends_well(capsys, arguments):
    code, out, _ = run_script(train.main, arguments, capsys)
    assert (code, "--" in out) == (0, True)


def test_a_missing_or_half_run(tiny, tmp_path, capsys):
    code, _, err = run_script(sample.main, [tmp_path / "nothing"], capsys)
    assert (code, "is not a run" in err) == (2, True)
    (tmp_path / "config.json").write_text('{"experiment": ')
    code, _, err = run_script(sample.main, [tmp_path], capsys)
    assert (code, "is damaged" in err) == (2, True)
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    code, _, err = run_script(sample.main, [tmp_path, "--steps", 5], capsys)
    assert (code, "no trained diffusion network" in err) == (2, True)


def test_an_output_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for main, arguments in (
        (sample.main, [tiny, "--steps", 5]),
        (train.main, ["digits", "--data.dir", tiny.parent / "data", *SMALL]),
    ):
        code, _, err = run_script(main, [*arguments, "--out", tmp_path / "file" / "out"], capsys)
        assert (code, "cannot" in err) == (2, True)
        assert "Traceback" not in err
    assert (tmp_path / "file").read_text() == "mine"


def test_without_label_dropout_there_is_no_classifier_free_guidance(tiny, tmp_path, capsys):
    config = json.loads((tiny / "config.json").read_text())
    config["experiment"]["diffusion"]["label_dropout"] = 0.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, err = run_script(sample.main, [tmp_path, "--guidance", "classifier-free", "--steps", 5], capsys)
    assert (code, "without label dropout" in err) == (2, True)


def call(*arguments):
    """A process of its own, as a user starts one."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    words = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


WRONG_BY_PROCESS = {
    "give at least 0": ["train.py", "digits", "--diffusion.num-steps", "-1"],
    "label 12 is out of range": ["sample.py", "RUN", "--labels", 12],
    "there is no experiment": ["train.py", "nonsense"],
    "is not a run": ["sample.py", "nothing"],
    "no file nothing.npz": ["convert.py", "nothing.npz", "--model", "64x64_diffusion", "--out", "OUT"],
}


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        pytest.param(words, arguments, marks=pytest.mark.slow if i else (), id=words)
        for i, (words, arguments) in enumerate(WRONG_BY_PROCESS.items())
    ],
)
def test_wrong_use_by_a_process_of_its_own(words, arguments, tiny, tmp_path):
    """Its exit code and its one line."""
    told = call(*({"RUN": tiny, "OUT": tmp_path / "out"}.get(word, word) for word in arguments))
    assert (told.returncode, told.stderr.count("\n"), words in told.stderr) == (2, 1, True), told.stderr


@pytest.mark.slow  # in the fast suite the installed command: tests/house/test_packaging.py
def test_as_a_user_calls_them(tiny, tmp_path):
    good = call("sample.py", tiny, "--steps", 3, "--num-samples", 3, "--out", tmp_path / "out")
    assert good.returncode == 0, good.stderr
    assert images.load_npz(tmp_path / "out" / "samples.npz")[0].shape == (3, 8, 8, 1)


def test_sampling_starts_without_what_only_training_or_a_plot_needs():
    """Each of them is a fifth of a second or more to import."""
    program = "import sys, sample; print({'grain', 'tensorflow_datasets', 'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
