"""What is looked at while a network trains: its samples' numbers, the best checkpoint, the curves for TensorBoard."""

import dataclasses
import json
import math
import re
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from guided_jax import metrics, parallel, training
from guided_jax.app import best_checkpoint as keeping
from guided_jax.app import cli
from guided_jax.app import metrics as metrics_command
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import command as sample
from guided_jax.app.train import command as train
from guided_jax.app.train import monitoring as watching
from guided_jax.metrics import evaluation
from guided_jax.metrics.judge import describe
from guided_jax.models.judge import Judge
from guided_jax.storage import checkpoint, log
from guided_jax.storage import tensorboard as events
from tests.scripts import SMALL, run_script

COUNT = 20
MEASURED = {"fd", "kid", "precision", "recall", "density", "coverage", "accuracy", "inception_score"}


def asked(tiny, out, place):
    """The command line of a run of four steps that is measured at the second and the fourth."""
    by = ["--diffusion.measure-judge", place / "judge", "--diffusion.keep-best-by", "samples_fd"]
    often = ["--diffusion.measure-every", 2, "--diffusion.measure-samples", COUNT, "--diffusion.sample-every", 2]
    data = ["--out", out, "--data.dir", tiny.parent / "data", "--devices", 1]
    return ["digits", *data, *SMALL, *often, *by, "--classifier.num-steps", 0]


def make_judge(place, shape):
    """One that has learned nothing: its numbers are as good as any to be compared."""
    network = Judge(10, (8, 8))
    state = training.init(jax.random.key(1), network.init(jax.random.key(0), jnp.zeros((1, *shape))), optax.sgd(0.1))
    with checkpoint.opened(place / "checkpoints") as saved:
        checkpoint.save(saved, 1, state)
    describe(place, network, shape, trained=1)


@pytest.fixture(scope="module")
def watched(tiny, tmp_path_factory):
    """(the run, the folder with its judge); the tests copy what they change."""
    place = tmp_path_factory.mktemp("watched")
    run = runs.load(tiny)
    make_judge(place / "judge", run.facts.image_shape)
    train.main([str(word) for word in asked(tiny, place / "run", place)])
    return place / "run", place


def measured_rows(out):
    """step -> the numbers of its samples, of every row that has some."""
    rows = log.read(out / "diffusion" / "metrics.jsonl")
    found = {row["step"]: {name: row[name] for name in row if name.startswith("samples_")} for row in rows}
    return {step: numbers for step, numbers in found.items() if numbers}


def test_the_numbers_are_those_of_the_metrics_command_on_the_same_samples(watched, tiny, tmp_path, capsys):
    out, place = watched
    rows = measured_rows(out)
    assert list(rows) == [2, 4]
    assert rows[2] != rows[4]
    ask = ["--labels", *range(10), "--num-samples", COUNT, "--batch-size", 8, "--devices", 1, "--out", tmp_path]
    assert run_script(sample.main, [out, *ask], capsys)[0] == 0
    words = [tmp_path / "samples.npz", "digits", "--data-dir", tiny.parent / "data", "--judge", place / "judge"]
    cli.script(metrics_command.main, [str(word) for word in words])
    want = json.loads((tmp_path / "samples.metrics.json").read_text())
    assert "10 classes, 2 of each" in want["pictures"]["samples"]
    assert set(rows[4]) == {f"samples_{name}" for name in MEASURED}
    for name in MEASURED:
        assert rows[4][f"samples_{name}"] == pytest.approx(want["samples"][name], rel=1e-6, abs=1e-9), name


@pytest.mark.slow
def test_a_run_that_was_killed_writes_the_same_numbers_and_events_again(watched, tiny, tmp_path, capsys):
    """Back at step 2, with rows, pictures and events of later steps lying about."""
    whole, place = watched
    out = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(out / "diffusion" / "checkpoints" / "4")
    code, said, err = run_script(train.main, asked(tiny, out, place), capsys)
    assert code == 0, err
    assert f"measuring {COUNT} samples (10 classes, 2 of each) against held-out data: 360 pictures" in said
    assert "precision and recall depend on both numbers" in said
    for name in ("metrics.jsonl", events.NAME):
        assert (out / "diffusion" / name).read_bytes() == (whole / "diffusion" / name).read_bytes()


def test_the_best_checkpoint_is_that_of_the_best_row(watched, tmp_path, capsys):
    out = shutil.copytree(watched[0], tmp_path / "run")
    rows, chosen = measured_rows(out), {}
    config = json.loads((out / "config.json").read_text())
    for name in rows[4]:
        config["experiment"]["diffusion"]["keep_best_by"] = name
        (out / "config.json").write_text(json.dumps(config))
        take = max if name.removeprefix("samples_") in evaluation.HIGHER else min
        chosen[name] = runs.step_of(out, "diffusion", "best")
        assert chosen[name] == take(rows, key=lambda step, name=name: rows[step][name])
    assert set(chosen.values()) == {2, 4}, "each number says the same, and nothing is tested below"
    first = next(name for name, step in chosen.items() if step == 2)
    config["experiment"]["diffusion"]["keep_best_by"] = first
    (out / "config.json").write_text(json.dumps(config))
    for which, step in (("best", 2), ("last", 4)):
        found = runs.params(out, "diffusion", which=which)
        want = checkpoint.load_params(out / "diffusion" / "checkpoints", step=step)
        jax.tree.map(np.testing.assert_array_equal, found, want)
        options = sample.Sampling(out, checkpoint=which)
        jax.tree.map(np.testing.assert_array_equal, sample.parameters(options)["diffusion"], want)
    config["experiment"]["diffusion"]["keep_best_by"] = "samples_sfd"
    (out / "config.json").write_text(json.dumps(config))
    code, _, err = run_script(sample.main, [out, "--checkpoint", "best", "--out", tmp_path / "out"], capsys)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert "has no diffusion checkpoint with samples_sfd; leave out --checkpoint best" in err


HIGHER = ("accuracy", "precision", "recall", "density", "coverage", "inception_score")
LOWER = ("fd", "sfd", "fd_infinity", "kid")


def test_every_metric_has_its_direction():
    assert {*HIGHER, *LOWER} == set(evaluation.TITLES)
    assert all(keeping.highest(f"samples_{name}") for name in HIGHER)
    assert not any(keeping.highest(f"samples_{name}") for name in LOWER)
    assert keeping.highest("held_out_accuracy")
    assert keeping.highest("held_out_accuracy_q3")
    assert not keeping.highest("held_out_loss")
    assert not keeping.highest("held_out_loss_q1")


def test_the_direction_is_from_a_bad_model_to_a_good_one():
    """Draws of the law itself, and of one that is too narrow and beside it."""
    draw = np.random.default_rng(0).normal
    reference, good, bad = draw(size=(80, 3)), draw(size=(80, 3)), draw(0.6, 0.4, size=(80, 3))
    of = lambda x: metrics.Summary(x, metrics.Moments.of(x))  # noqa: E731
    better, worse = (metrics.evaluate(of(x), metrics.statistics_of(of(reference)), reference) for x in (good, bad))
    for name in ("fd", "fd_infinity", "kid", "recall", "coverage"):
        assert (better[name] > worse[name]) == keeping.highest(f"samples_{name}"), name
    prepared = metrics.prepare(metrics.statistics_of(of(reference)), reference)
    assert metrics.compare(of(good), prepared) == better


def records(path):
    """The contents of an event file, every checksum looked at, by the definitions and not by the library that wrote it."""
    content, place, found = path.read_bytes(), 0, []
    while place < len(content):
        (length, check) = struct.unpack_from("<QI", content, place)
        assert check == masked_crc32c(content[place : place + 8])
        body = content[place + 12 : place + 12 + length]
        assert struct.unpack_from("<I", content, place + 12 + length) == (masked_crc32c(body),)
        found.append(body)
        place += 16 + length
    return found


def masked_crc32c(content):
    """Castagnoli's polynomial, bit by bit, then TFRecord's mask."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    """[(step, {tag: float}, [png])] of an event file, after its header."""
    from tensorboardX.proto.event_pb2 import Event

    first, *rest = [Event.FromString(body) for body in records(path)]
    assert first.file_version == "brain.Event:2"
    split = lambda values, kind: [each for each in values if each.HasField(kind)]  # noqa: E731
    return [
        (
            each.step,
            {value.tag: value.simple_value for value in split(each.summary.value, "simple_value")},
            [value.image for value in split(each.summary.value, "image")],
        )
        for each in rest
    ]


def test_the_event_file_holds_exactly_the_rows_and_the_grids(watched):
    directory = watched[0] / "diffusion"
    found, rows = read_events(directory / events.NAME), log.read(directory / "metrics.jsonl")
    numbers = [(step, values) for step, values, _ in found if values]
    assert [step for step, _ in numbers] == [row["step"] for row in rows] == [1, 2, 3, 4]
    for (_, values), row in zip(numbers, rows, strict=True):
        want = {watching.tag(name): float(np.float32(value)) for name, value in row.items() if name != "step"}
        assert values == want
    assert {"training/loss", "training/loss_q1", "held_out/loss", "samples/fd"} <= set(numbers[3][1])
    grids = [
        (step, image.encoded_image_string, (image.width, image.height)) for step, _, each in found for image in each
    ]
    paths = [(step, directory / f"samples-{step:06d}.png") for step in (2, 4)]
    assert grids == [(step, path.read_bytes(), Image.open(path).size) for step, path in paths]
    assert [step for step, *_ in found] == [1, 2, 2, 3, 4, 4]


def test_an_event_file_grows_to_the_same_bytes_and_is_begun_anew_in_its_place(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "accuracy": 0.5} for step in range(1, 8)]
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    pictures = [events.Picture(step, "samples/grid", tmp_path / "a.png") for step in (6, 2)]
    events.write(tmp_path / "whole", rows, pictures)
    events.write(tmp_path / "grown", rows[:3], pictures[1:])
    events.write(tmp_path / "grown", rows, pictures, after=3)
    events.write(tmp_path / "grown", rows, pictures, after=7)
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "whole").read_bytes()
    before = (tmp_path / "grown").stat().st_ino
    events.write(tmp_path / "grown", rows[:1])
    assert (tmp_path / "grown").stat().st_ino == before  # TensorBoard has it open
    assert read_events(tmp_path / "grown") == [(1, {"loss": 1, "accuracy": 0.5}, [])]
    with pytest.raises(OSError, match=r"^cannot write .*/none/events: No such file or directory$"):
        events.write(tmp_path / "none" / "events", rows)


def test_curves_and_events_are_made_again_of_the_rows(watched, tmp_path, capsys):
    out = shutil.copytree(watched[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    for name in (events.NAME, "curves.png"):
        (out / "diffusion" / name).unlink()
    code, said, err = run_script(watching.main, [out], capsys)
    assert (code, "4 rows" in said) == (0, True), err
    assert (out / "diffusion" / events.NAME).read_bytes() == (watched[0] / "diffusion" / events.NAME).read_bytes()
    width, height = Image.open(out / "diffusion" / "curves.png").size
    assert (width, height) == (
        14 * 120,
        4 * 3 * 120,
    )  # eight panels: loss, norm, distances (2), two pairs, accuracy, score


def test_without_tensorboard_there_is_no_event_file(watched, tmp_path):
    out = shutil.copytree(watched[0] / "diffusion", tmp_path / "part", ignore=shutil.ignore_patterns("checkpoints"))
    (out / events.NAME).unlink()
    watching.curves(out, tensorboard=False)(4)
    assert not (out / events.NAME).exists()


def changed(run, **settings):
    diffusion = dataclasses.replace(run.experiment.diffusion, **{"measure_every": 2, **settings})
    return runs.assemble(dataclasses.replace(run.experiment, diffusion=diffusion), run.facts)


def test_labels_are_even(tiny):
    run = runs.load(tiny)
    labels = lambda **settings: watching.labels_of(changed(run, **settings))  # noqa: E731
    np.testing.assert_array_equal(np.bincount(labels(measure_samples=40)), [4] * 10)
    np.testing.assert_array_equal(labels(measure_samples=13)[:11], [*range(10), 0])
    many = run._replace(facts=run.facts._replace(num_classes=100))
    np.testing.assert_array_equal(watching.labels_of(changed(many, measure_samples=10)), np.arange(0, 100, 10))
    assert (labels(measure_samples=5, conditional=False) == -1).all()


def test_guidance_is_used_where_it_does_something(tiny):
    run = runs.load(tiny)
    assert watching.method_of(run, 1.0).guidance == "none"
    assert watching.method_of(run, 2.0).guidance == "classifier-free"
    assert watching.method_of(changed(run, label_dropout=0.0), 1.0).guidance == "none"


@pytest.mark.slow
def test_on_parts_the_numbers_are_the_same(watched, tiny):
    """Every device holds a part of the averaged weights; pictures may differ by a grey value."""
    run = runs.load(watched[0])
    parts = run._replace(experiment=dataclasses.replace(run.experiment, shard_parameters=True, devices=8))
    devices = parallel.choose_devices(8)
    source = lambda: run.experiment.data.make(held_out=True)  # noqa: E731
    params = runs.params(watched[0], "diffusion", parallel.leaf_sharding(devices))
    measure = watching.measuring(parts, source)
    found = measure.evaluate(SimpleNamespace(ema=params))
    assert found == pytest.approx(measured_rows(watched[0])[4], rel=2e-3)
    assert set(found) == measure.names


def test_what_will_be_measured_is_known_before(watched):
    run = runs.load(watched[0])
    source = run.experiment.data.make(held_out=True)
    names = lambda **settings: watching.measuring(changed(run, **settings), lambda: source).names  # noqa: E731
    plain = {"samples_fd", "samples_kid", "samples_precision", "samples_recall", "samples_density", "samples_coverage"}
    assert names(measure_judge=None) == plain
    assert names(measure_judge=None, measure_samples=256) == {*plain, "samples_fd_infinity"}
    seen = {*plain, "samples_inception_score", "samples_fd_infinity"}  # by the judge's eight features
    assert names(measure_samples=32) == {*seen, "samples_accuracy"}
    assert names(measure_samples=32, conditional=False) == seen  # nobody asked for a class


@pytest.mark.slow
def test_a_run_that_knows_nothing_of_this_goes_on(tiny, tmp_path, capsys):
    """As it was done before: never measured, the best by held-out loss, and an event file is added."""
    out = shutil.copytree(tiny, tmp_path / "run")
    config = json.loads((out / "config.json").read_text())
    config["experiment"].pop("tensorboard")
    for part in ("diffusion", "classifier"):
        settings = config["experiment"][part]
        for name in [name for name in settings if name.startswith(("measure_", "keep_best_by"))]:
            settings.pop(name)
    (out / "config.json").write_text(json.dumps(config))
    (out / "diffusion" / events.NAME).unlink()
    diffusion = runs.load(out).experiment.diffusion
    assert (diffusion.measure_every, diffusion.keep_best_by) == (0, "held_out_loss")
    assert runs.step_of(out, "diffusion", "best") == 4
    code, _, err = run_script(train.main, ["digits", "--out", out, "--data.dir", tiny.parent / "data", *SMALL], capsys)
    assert code == 0, err
    assert (out / "diffusion" / events.NAME).exists()


OFTEN = ("--diffusion.measure-every", 4)
WRONG = {
    "--diffusion.keep-best-by is speed, which this run never measures; there is held_out_loss,": [
        *("--diffusion.keep-best-by", "speed"),
    ],
    "nowhere is no trained judge": [*OFTEN, "--diffusion.measure-judge", "nowhere"],
    "--diffusion.measure-every is -1": ["--diffusion.measure-every", -1],
    "no split 'validation'": [*OFTEN, "--data.held-out", "validation"],
}


@pytest.mark.parametrize(("words", "arguments"), WRONG.items(), ids=WRONG)
def test_wrong_settings_are_told_in_one_sentence_before_training(words, arguments, tiny, tmp_path, capsys):
    place = ["--out", tmp_path / "run", "--data.dir", tiny.parent / "data"]
    code, _, err = run_script(train.main, ["digits", *place, *SMALL, *arguments], capsys)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert words in err
    assert not list(tmp_path.glob("run/*/checkpoints"))


# As above by the functions that train.py calls, without the script around them.
UNMEASURED = {
    "--diffusion.keep-best-by is samples_fd, which this run": {"measure_every": 0, "keep_best_by": "samples_fd"},
    "--diffusion.keep-best-by is samples_accuracy, which": {"keep_best_by": "samples_accuracy"},
    "--diffusion.keep-best-by is samples_kid_std, which": {"keep_best_by": "samples_kid_std"},
    "give a multiple of --diffusion.checkpoint-every, which is 2": {"measure_every": 3, "keep_best_by": "samples_fd"},
    "an upsampler starts from other pictures": {"low_res": 4},
    "--diffusion.measure-scale is 2.0, and a network without": {"measure_scale": 2.0, "label_dropout": 0.0},
    "there is no file nowhere.pt": {"measure_inception": Path("nowhere.pt")},
    "3 samples and 360 held-out pictures are too few": {"measure_samples": 3},
    "--diffusion.measure-scale is inf; give a finite": {"measure_scale": math.inf},
}


def checked(run):
    """What train.py looks at before it trains."""
    source = lambda: run.experiment.data.make(held_out=True)  # noqa: E731
    measure = watching.measuring(run, source)
    keeping.check("diffusion", run.experiment.diffusion, measure.names if measure else ())


@pytest.mark.parametrize(("words", "settings"), UNMEASURED.items(), ids=UNMEASURED)
def test_what_cannot_be_measured_or_kept_is_told_in_one_sentence(words, settings, tiny):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as told:
        checked(changed(runs.load(tiny), **settings))
    assert len(str(told.value).splitlines()) == 1


def test_what_can_be_measured_and_kept_is_not_refused(tiny):
    checked(changed(runs.load(tiny), keep_best_by="samples_fd"))
    checked(changed(runs.load(tiny), keep_best_by="held_out_loss", measure_every=3))


def test_a_classifier_is_not_kept_by_samples(tiny):
    settings = dataclasses.replace(runs.load(tiny).experiment.classifier, keep_best_by="samples_fd")
    with pytest.raises(ValueError, match=r"--classifier\.keep-best-by is samples_fd, which"):
        keeping.check("classifier", settings, ())


def test_a_judge_of_other_pictures_is_refused(watched, tiny):
    run = changed(runs.load(tiny), measure_judge=watched[1] / "judge")
    other = run._replace(facts=run.facts._replace(image_shape=(4, 4, 1)))
    with pytest.raises(ValueError, match=r"the judge was trained on pictures of \(8, 8, 1\), these are \(4, 4, 1\)"):
        checked(other)


def test_what_may_change_between_two_starts_is_named():
    for name in ("measure_every", "measure_samples", "measure_scale", "measure_judge", "measure_inception"):
        assert f"diffusion.{name}" in schema.MAY_CHANGE
    assert {"tensorboard", "diffusion.keep_best_by", "classifier.keep_best_by"} <= set(schema.MAY_CHANGE)
