"""Metrics of samples during training, the best checkpoint, curves and TensorBoard files."""

import dataclasses
import json
import re
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from guided_jax import metrics, parallel
from guided_jax.app import best_checkpoint, cli
from guided_jax.app import metrics as metrics_command
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import command as sample
from guided_jax.app.train import command as train
from guided_jax.app.train import curves, grids, sample_metrics
from guided_jax.metrics import evaluation
from guided_jax.storage import checkpoint, log, tensorboard
from tests.scripts import SMALL, run_script
from tests.untrained import make_judge

COUNT = 20
METRICS = {"fd", "kid", "precision", "recall", "density", "coverage", "accuracy", "inception_score"}


def arguments_of(tiny, out, place):
    """The command line of four steps of score matching, whose samples are measured at the second and the fourth."""
    by = ["--diffusion.measure-judge", place / "judge", "--diffusion.keep-best-by", "samples_fd"]
    often = ["--diffusion.measure-every", 2, "--diffusion.measure-samples", COUNT, "--diffusion.sample-every", 2]
    data = ["--out", out, "--data.dir", tiny.parent / "data", "--devices", 1]
    score = ["--diffusion.parameterization", "score", "--schedule.name", "geometric"]
    return ["digits", *data, *SMALL, *often, *by, *score, "--classifier.num-steps", 0]


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """(the run, the folder with its judge); the tests copy what they change."""
    place = tmp_path_factory.mktemp("measured")
    run = runs.load(tiny)
    make_judge(place / "judge", run.facts.image_shape)
    train.main([str(word) for word in arguments_of(tiny, place / "run", place)])
    return place / "run", place


def measured_rows(out):
    """Return step -> metrics of samples, of every row that has some."""
    rows = log.read(out / "diffusion" / "metrics.jsonl")
    found = {row["step"]: {name: row[name] for name in row if name.startswith("samples_")} for row in rows}
    return {step: numbers for step, numbers in found.items() if numbers}


def test_metrics_equal_those_of_the_metrics_command_on_the_same_samples(measured, tiny, tmp_path, capsys):
    out, place = measured
    rows = measured_rows(out)
    assert list(rows) == [2, 4]
    assert rows[2] != rows[4]
    ask = ["--labels", *range(10), "--num-samples", COUNT, "--batch-size", 8, "--devices", 1, "--out", tmp_path]
    assert run_script(sample.main, [out, *ask], capsys)[0] == 0
    words = [tmp_path / "samples.npz", "digits", "--data-dir", tiny.parent / "data", "--judge", place / "judge"]
    cli.script(metrics_command.main, [str(word) for word in words])
    want = json.loads((tmp_path / "samples.metrics.json").read_text())
    assert "10 classes, 2 of each" in want["pictures"]["samples"]
    assert set(rows[4]) == {f"samples_{name}" for name in METRICS}
    for name in METRICS:
        assert rows[4][f"samples_{name}"] == pytest.approx(want["samples"][name], rel=1e-6, abs=1e-9), name


@pytest.mark.slow
def test_a_killed_run_writes_the_same_metrics_and_events_again(measured, tiny, tmp_path, capsys):
    """Back at step 2, with rows, pictures and events of later steps lying about."""
    whole, place = measured
    out = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(out / "diffusion" / "checkpoints" / "4")
    code, said, err = run_script(train.main, arguments_of(tiny, out, place), capsys)
    assert code == 0, err
    assert f"measuring {COUNT} samples (10 classes, 2 of each) against held-out data: 360 pictures" in said
    assert "precision and recall depend on both numbers" in said
    for name in ("metrics.jsonl", tensorboard.NAME):
        assert (out / "diffusion" / name).read_bytes() == (whole / "diffusion" / name).read_bytes()


def test_the_best_checkpoint_has_the_best_metric(measured, tmp_path, capsys):
    out = shutil.copytree(measured[0], tmp_path / "run")
    rows, chosen = measured_rows(out), {}
    config = json.loads((out / "config.json").read_text())
    for name in rows[4]:
        config["experiment"]["diffusion"]["keep_best_by"] = name
        (out / "config.json").write_text(json.dumps(config))
        take = max if name.removeprefix("samples_") in evaluation.HIGHER else min
        chosen[name] = runs.step_of(out, "diffusion", "best")
        assert chosen[name] == take(rows, key=lambda step, name=name: rows[step][name])
    assert set(chosen.values()) == {2, 4}, "every metric chooses the same step, so that nothing is tested below"
    first = next(name for name, step in chosen.items() if step == 2)
    config["experiment"]["diffusion"]["keep_best_by"] = first
    (out / "config.json").write_text(json.dumps(config))
    for which, step in (("best", 2), ("last", 4)):
        found = runs.params(out, "diffusion", which=which)
        want = checkpoint.load_params(out / "diffusion" / "checkpoints", step=step)
        jax.tree.map(np.testing.assert_array_equal, found, want)
        options = sample.Sampling(out, checkpoint=which)
        jax.tree.map(np.testing.assert_array_equal, sample.load_params(options, runs.load(out))["diffusion"], want)
    config["experiment"]["diffusion"]["keep_best_by"] = "samples_sfd"
    (out / "config.json").write_text(json.dumps(config))
    code, _, err = run_script(sample.main, [out, "--checkpoint", "best", "--out", tmp_path / "out"], capsys)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert "has no diffusion checkpoint with samples_sfd; leave out --checkpoint best" in err


HIGHER = ("accuracy", "precision", "recall", "density", "coverage", "inception_score")
HIGHER += ("clip_score", "retrieval_top1", "retrieval_top5")
LOWER = ("fd", "fd_dinov2", "sfd", "fd_infinity", "kid")


def test_every_metric_has_its_direction():
    assert {*HIGHER, *LOWER} == set(evaluation.TITLES)
    assert all(best_checkpoint.highest(f"samples_{name}") for name in HIGHER)
    assert not any(best_checkpoint.highest(f"samples_{name}") for name in LOWER)
    assert best_checkpoint.highest("held_out_accuracy")
    assert best_checkpoint.highest("held_out_accuracy_q3")
    assert not best_checkpoint.highest("held_out_loss")
    assert not best_checkpoint.highest("held_out_loss_q1")


def test_the_direction_is_from_a_bad_model_to_a_good_one():
    """Draws of the law itself, and of one that is too narrow and beside it."""
    draw = np.random.default_rng(0).normal
    reference, good, bad = draw(size=(80, 3)), draw(size=(80, 3)), draw(0.6, 0.4, size=(80, 3))
    of = lambda x: metrics.Summary(x, metrics.Moments.of(x))  # noqa: E731
    better, worse = (metrics.evaluate(of(x), metrics.statistics_of(of(reference)), reference) for x in (good, bad))
    for name in ("fd", "fd_infinity", "kid", "recall", "coverage"):
        assert (better[name] > worse[name]) == best_checkpoint.highest(f"samples_{name}"), name
    prepared = metrics.prepare(metrics.statistics_of(of(reference)), reference)
    assert metrics.compare(of(good), prepared) == better


def records(path):
    """Return the records of an event file; checksums are verified by their definition, not by the library."""
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
    """CRC32-C bit by bit, then TFRecord's mask."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    """Return [(step, {tag: float}, [png])] of an event file, after its header."""
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


def test_the_event_file_holds_exactly_the_rows_and_the_grids(measured):
    directory = measured[0] / "diffusion"
    found, rows = read_events(directory / tensorboard.NAME), log.read(directory / "metrics.jsonl")
    numbers = [(step, values) for step, values, _ in found if values]
    assert [step for step, _ in numbers] == [row["step"] for row in rows] == [1, 2, 3, 4]
    for (_, values), row in zip(numbers, rows, strict=True):
        want = {curves.tag(name): float(np.float32(value)) for name, value in row.items() if name != "step"}
        assert values == want
    assert {"training/loss", "training/loss_q1", "held_out/loss", "samples/fd"} <= set(numbers[3][1])
    grids = [
        (step, image.encoded_image_string, (image.width, image.height)) for step, _, each in found for image in each
    ]
    paths = [(step, directory / f"samples-{step:06d}.png") for step in (2, 4)]
    assert grids == [(step, path.read_bytes(), Image.open(path).size) for step, path in paths]
    assert [step for step, *_ in found] == [1, 2, 2, 3, 4, 4]


def test_appending_gives_the_same_bytes_and_rewriting_keeps_the_file(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "accuracy": 0.5} for step in range(1, 8)]
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    pictures = [tensorboard.Picture(step, "samples/grid", tmp_path / "a.png") for step in (6, 2)]
    tensorboard.write(tmp_path / "whole", rows, pictures)
    tensorboard.write(tmp_path / "grown", rows[:3], pictures[1:])
    tensorboard.write(tmp_path / "grown", rows, pictures, after=3)
    tensorboard.write(tmp_path / "grown", rows, pictures, after=7)
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "whole").read_bytes()
    before = (tmp_path / "grown").stat().st_ino
    tensorboard.write(tmp_path / "grown", rows[:1])
    assert (tmp_path / "grown").stat().st_ino == before  # TensorBoard has it open
    assert read_events(tmp_path / "grown") == [(1, {"loss": 1, "accuracy": 0.5}, [])]
    with pytest.raises(OSError, match=r"^cannot write .*/none/events: No such file or directory$"):
        tensorboard.write(tmp_path / "none" / "events", rows)


@pytest.mark.usefixtures("curves")
def test_the_curves_command_writes_the_same_files_from_the_rows(measured, tmp_path, capsys):
    out = shutil.copytree(measured[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    for name in (tensorboard.NAME, "curves.png"):
        (out / "diffusion" / name).unlink()
    code, said, err = run_script(curves.main, [out], capsys)
    assert (code, "4 rows" in said) == (0, True), err
    assert (out / "diffusion" / tensorboard.NAME).read_bytes() == (
        measured[0] / "diffusion" / tensorboard.NAME
    ).read_bytes()
    width, height = Image.open(out / "diffusion" / "curves.png").size
    assert (width, height) == (
        14 * 120,
        6 * 3 * 120,
    )  # eleven panels: loss, rate, three norms, two distances, two pairs, accuracy, score


def test_the_curves_of_a_step_are_drawn_once(tmp_path, monkeypatch):
    """The last step may be one of a checkpoint, and is the end of the training too."""
    drawn = []
    monkeypatch.setattr(curves.log, "plot", lambda *_: drawn.append(1))
    log.append(tmp_path / "metrics.jsonl", {"step": 2, "loss": 1.0})
    save_curves = curves.make_hook(tmp_path, write_events=False)
    for done in (2, 2, 4):
        save_curves(done)
    assert len(drawn) == 2


def test_without_tensorboard_there_is_no_event_file(measured, tmp_path):
    out = shutil.copytree(measured[0] / "diffusion", tmp_path / "part", ignore=shutil.ignore_patterns("checkpoints"))
    (out / tensorboard.NAME).unlink()
    curves.make_hook(out, write_events=False)(4)
    assert not (out / tensorboard.NAME).exists()


def changed(run, **settings):
    diffusion = dataclasses.replace(run.experiment.diffusion, **{"measure_every": 2, **settings})
    return runs.assemble(dataclasses.replace(run.experiment, diffusion=diffusion), run.facts)


def test_every_class_has_as_many_samples(tiny):
    run = runs.load(tiny)
    labels = lambda **settings: sample_metrics.labels_of(changed(run, **settings))  # noqa: E731
    np.testing.assert_array_equal(np.bincount(labels(measure_samples=40)), [4] * 10)
    np.testing.assert_array_equal(labels(measure_samples=13)[:11], [*range(10), 0])
    many = run._replace(facts=run.facts._replace(num_classes=100))
    np.testing.assert_array_equal(sample_metrics.labels_of(changed(many, measure_samples=10)), np.arange(0, 100, 10))
    assert (labels(measure_samples=5, conditional=False) == -1).all()


def test_samples_are_guided_where_the_scale_has_an_effect(tiny):
    run = runs.load(tiny)
    assert grids.default_method(run, 1.0).guidance == "none"
    assert grids.default_method(run, 2.0).guidance == "classifier-free"
    assert grids.default_method(changed(run, label_dropout=0.0), 1.0).guidance == "none"


@pytest.mark.slow
def test_sharded_parameters_give_the_same_metrics(measured, tiny):
    """Every device holds a part of the averaged parameters; pictures may differ by a grey value."""
    run = runs.load(measured[0])
    parts = run._replace(experiment=dataclasses.replace(run.experiment, shard_parameters=True, devices=8))
    devices = parallel.choose_devices(8)
    source = lambda: run.experiment.data.make(held_out=True)  # noqa: E731
    params = runs.params(measured[0], "diffusion", parallel.leaf_sharding(devices))
    measure = sample_metrics.make(parts, source)
    found = measure.evaluate(SimpleNamespace(ema=params))
    assert found == pytest.approx(measured_rows(measured[0])[4], rel=2e-3)
    assert set(found) == measure.names


def test_the_names_of_the_metrics_are_known_before_training(measured):
    run = runs.load(measured[0])
    source = run.experiment.data.make(held_out=True)
    names = lambda **settings: sample_metrics.make(changed(run, **settings), lambda: source).names  # noqa: E731
    plain = {"samples_fd", "samples_kid", "samples_precision", "samples_recall", "samples_density", "samples_coverage"}
    assert names(measure_judge=None) == plain
    assert names(measure_judge=None, measure_samples=256) == {*plain, "samples_fd_infinity"}
    seen = {*plain, "samples_inception_score", "samples_fd_infinity"}  # by the judge's eight features
    assert names(measure_samples=32) == {*seen, "samples_accuracy"}
    assert names(measure_samples=32, conditional=False) == seen  # no class was requested


@pytest.mark.slow
def test_a_run_of_an_older_version_resumes(tiny, tmp_path, capsys):
    """Its samples are not measured, its best checkpoint is by held-out loss, and an event file is added."""
    out = shutil.copytree(tiny, tmp_path / "run")
    config = json.loads((out / "config.json").read_text())
    config["experiment"].pop("tensorboard")
    for part in ("diffusion", "classifier"):
        settings = config["experiment"][part]
        for name in [name for name in settings if name.startswith(("measure_", "keep_best_by"))]:
            settings.pop(name)
    (out / "config.json").write_text(json.dumps(config))
    (out / "diffusion" / tensorboard.NAME).unlink()
    diffusion = runs.load(out).experiment.diffusion
    assert (diffusion.measure_every, diffusion.keep_best_by) == (0, "held_out_loss")
    assert runs.step_of(out, "diffusion", "best") == 4
    code, _, err = run_script(train.main, ["digits", "--out", out, "--data.dir", tiny.parent / "data", *SMALL], capsys)
    assert code == 0, err
    assert (out / "diffusion" / tensorboard.NAME).exists()


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
def test_wrong_settings_are_refused_in_one_sentence_before_training(words, arguments, tiny, tmp_path, capsys):
    place = ["--out", tmp_path / "run", "--data.dir", tiny.parent / "data"]
    code, _, err = run_script(train.main, ["digits", *place, *SMALL, *arguments], capsys)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert words in err
    assert not list(tmp_path.glob("run/*/checkpoints"))


# By the functions that the train command calls, without the command.
UNMEASURED = {
    "--diffusion.keep-best-by is samples_fd, which this run": {"measure_every": 0, "keep_best_by": "samples_fd"},
    "--diffusion.keep-best-by is samples_accuracy, which": {"keep_best_by": "samples_accuracy"},
    "--diffusion.keep-best-by is samples_kid_std, which": {"keep_best_by": "samples_kid_std"},
    "give a multiple of --diffusion.checkpoint-every, which is 2": {"measure_every": 3, "keep_best_by": "samples_fd"},
    "an upsampler starts from other pictures": {"low_res": 4},
    "--diffusion.measure-scale is 2.0, and a network without": {"measure_scale": 2.0, "label_dropout": 0.0},
    "there is no file nowhere.pt": {"measure_inception": Path("nowhere.pt")},
    "3 samples and 360 held-out pictures are too few": {"measure_samples": 3},
}


def check(run):
    """Call the checks of the train command."""
    source = lambda: run.experiment.data.make(held_out=True)  # noqa: E731
    measure = sample_metrics.make(run, source)
    best_checkpoint.check("diffusion", run.experiment.diffusion, measure.names if measure else ())


@pytest.mark.parametrize(("words", "settings"), UNMEASURED.items(), ids=UNMEASURED)
def test_metrics_that_cannot_be_computed_or_kept_are_refused_in_one_sentence(words, settings, tiny):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as error:
        check(changed(runs.load(tiny), **settings))
    assert len(str(error.value).splitlines()) == 1


def test_metrics_that_can_be_computed_and_kept_are_accepted(tiny):
    check(changed(runs.load(tiny), keep_best_by="samples_fd"))
    check(changed(runs.load(tiny), keep_best_by="held_out_loss", measure_every=3))


def test_the_best_classifier_is_not_chosen_by_samples(tiny):
    settings = dataclasses.replace(runs.load(tiny).experiment.classifier, keep_best_by="samples_fd")
    with pytest.raises(ValueError, match=r"--classifier\.keep-best-by is samples_fd, which"):
        best_checkpoint.check("classifier", settings, ())


def test_a_judge_of_other_pictures_is_refused(measured, tiny):
    run = changed(runs.load(tiny), measure_judge=measured[1] / "judge")
    other = run._replace(facts=run.facts._replace(image_shape=(4, 4, 1)))
    with pytest.raises(ValueError, match=r"the judge was trained on pictures of \(8, 8, 1\), these are \(4, 4, 1\)"):
        check(other)


def test_settings_of_measuring_may_change_between_two_starts():
    for name in (
        "measure_every",
        "measure_samples",
        "measure_scale",
        "measure_judge",
        "measure_inception",
        "measure_dino",
    ):
        assert f"diffusion.{name}" in schema.MAY_CHANGE
    assert {"tensorboard", "diffusion.keep_best_by", "classifier.keep_best_by"} <= set(schema.MAY_CHANGE)
