"""The train command: held-out rows, divergence, damaged checkpoints, signals, locks."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_jax import data, schedule
from guided_jax.app import best_checkpoint, cli, experiments, facts, judge, posthoc
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.train import checks, curves
from guided_jax.app.train import command as train
from guided_jax.storage import checkpoint, lock, log
from tests import processes
from tests.scripts import run_script

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "diffusion.num-steps": 0,
    "schedule.num-steps": 20,
    "classifier.num-steps": 6,
    "classifier.batch-size": 8,
    "classifier.checkpoint-every": 2,
    "classifier.log-every": 2,
    "classifier.eval-every": 3,
    "classifier.eval-examples": 20,
    "classifier.network.model-channels": 8,
    "classifier.network.num-head-channels": 8,
    "classifier.network.num-groups": 4,
}


def words(place, out, **changes):
    settings = {**SETTINGS, "data.dir": place / "data", "out": out}
    settings.update({name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()})
    shape = ["--classifier.network.channel-mult", "1", "--classifier.network.attention-resolutions", "2"]
    return ["digits", *(f"--{name}={value}" for name, value in settings.items()), *shape]


def call(arguments, capsys):
    """Return (exit code, lines on stderr without those of the progress)."""
    code = 0
    try:
        cli.script(train.main, arguments)
    except SystemExit as stop:
        code = stop.code or 0
    return code, [
        line for line in capsys.readouterr().err.splitlines() if line and not re.match(r"classifier: step \d+ of", line)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A little classifier, trained for six steps; the tests copy what they change."""
    place = tmp_path_factory.mktemp("script")
    cli.script(train.main, words(place, place / "run"))
    return place


def test_rows_have_quarters_and_held_out_metrics(place):
    rows = {row["step"]: row for row in log.read(place / "run" / "classifier" / "metrics.jsonl")}
    assert list(rows) == [2, 3, 4, 6]
    for step, row in rows.items():
        quarters = [name for name in row if name.startswith("loss_q")]
        assert 1 <= len(quarters) <= 4
        assert min(row[name] for name in quarters) <= row["loss"] <= max(row[name] for name in quarters)
        assert ("held_out_accuracy" in row) == (step in (3, 6))
    held_out = [name for name in rows[6] if name.startswith("held_out_")]
    assert {f"held_out_{name}_q{q}" for name in ("loss", "accuracy") for q in (1, 2, 3, 4)} < set(held_out)
    best = checkpoint.best(place / "run" / "classifier" / "checkpoints", "held_out_loss")
    assert best == 6  # the only checkpoint of an evaluated step
    assert Image.open(place / "run" / "classifier" / "curves.png").size[0] > 100


@pytest.mark.slow
def test_held_out_metrics_do_not_depend_on_when_they_are_computed(place, capsys):
    """The same parameters have the same metrics, however often they were evaluated before."""
    arguments = words(place, place / "other", classifier__eval_every=2, classifier__checkpoint_every=6)
    assert call(arguments, capsys)[0] == 0
    last = [log.read(place / name / "classifier" / "metrics.jsonl")[-1] for name in ("run", "other")]
    assert last[0] == last[1]


@pytest.mark.slow  # in the fast suite of the loop itself: tests/training/test_training.py
def test_divergence_is_one_sentence_with_the_step(place, tmp_path, capsys):
    rate = {"classifier__optimizer__learning_rate": 1e30, "classifier__optimizer__warmup_steps": 0}
    code, said = call(words(place, tmp_path / "run", **rate), capsys)
    assert code == 2
    assert len(said) == 1
    assert "at step" in said[0]
    assert "try a lower learning rate" in said[0]
    assert not checkpoint.steps(tmp_path / "run" / "classifier" / "checkpoints")


@pytest.mark.slow  # in the fast suite of the loop itself: tests/training/test_resume.py
def test_a_damaged_checkpoint_is_one_line_of_warning(place, capsys):
    (data,) = (place / "run" / "classifier" / "checkpoints" / "6" / "state" / "d").glob("*")
    whole = (place / "run" / "classifier" / "metrics.jsonl").read_bytes()
    data.write_bytes(data.read_bytes()[:-1])
    code, said = call(words(place, place / "run"), capsys)
    assert code == 0
    (line,) = said
    assert line.startswith("warning: the checkpoint ")
    assert "/6 is damaged: state/d/" in line
    assert (place / "run" / "classifier" / "metrics.jsonl").read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0), (signal.SIGUSR1, 0)]
)
def test_a_signal_saves_and_ends(tmp_path, number, code):
    arguments = words(tmp_path, tmp_path / "run", classifier__num_steps=100_000)
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    process = processes.start("train.py", *arguments, env=environment)
    deadline = time.monotonic() + 120
    while (checkpoint.latest(tmp_path / "run" / "classifier" / "checkpoints") or 0) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopped and saved; the same command resumes it" in said


def test_a_second_training_of_a_run_is_refused_and_changes_nothing(place, capsys):
    files = sorted((place / "run").rglob("*"))
    with lock.hold(place / "run"):
        code, lines = call(words(place, place / "run", classifier__num_steps=8), capsys)
    assert (code, len(lines)) == (2, 1)
    assert f"run is in use by process {os.getpid()} on " in lines[0]
    assert sorted((place / "run").rglob("*")) == files


def test_a_second_first_start_leaves_the_folder_to_the_first(place, tmp_path, capsys):
    with lock.hold(tmp_path / "run"):
        (tmp_path / "run" / "diffusion").mkdir()  # the first one is about to write its files
        code, lines = call(words(place, tmp_path / "run"), capsys)
        assert (code, len(lines)) == (2, 1)
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [lock.NAME, "diffusion"]


REFUSED = {
    "does not divide over 3 devices": {"devices": 3},
    "cannot be split into 3 norm groups": {"classifier.network.num-groups": 3},
    "which this run never measures": {"classifier.keep-best-by": "speed"},
}


@pytest.mark.parametrize(("message", "changes"), REFUSED.items(), ids=REFUSED)
def test_a_first_start_that_is_refused_leaves_nothing(place, tmp_path, capsys, message, changes):
    code, lines = call(words(place, tmp_path / "a" / "run", **changes), capsys)
    assert (code, len(lines), message in lines[0]) == (2, 1, True), lines
    assert not list(tmp_path.iterdir())


def test_a_first_start_that_fails_leaves_what_was_there(place, tmp_path, capsys, monkeypatch):
    """In a folder of the user's, refused after config.json and the folder of the network were written."""
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(train.loop, "fit", fail)
    code, lines = call(words(place, tmp_path), capsys)
    assert (code, lines) == (2, ["error: no room"])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def fail(job, stop):
    assert (job.directory.parent / "config.json").exists()
    (job.directory / "checkpoints").mkdir(parents=True)
    raise OSError("no room")


def test_a_later_start_that_fails_keeps_the_run(place, tmp_path, capsys, monkeypatch):
    out = shutil.copytree(place / "run", tmp_path / "run")
    monkeypatch.setattr(train.loop, "fit", fail_later)
    assert call(words(place, out), capsys) == (2, ["error: no room"])
    assert checkpoint.latest(out / "classifier" / "checkpoints") == 6
    assert (out / "config.json").exists()


def fail_later(job, stop):
    raise OSError("no room")


def test_an_eps_network_on_a_schedule_that_ends_at_alpha_0_is_refused(place, tmp_path, capsys):
    ends_at_zero = {"schedule.name": "linear", "schedule.num-steps": 20}
    code, lines = call(words(place, tmp_path / "run", diffusion__num_steps=1, **ends_at_zero), capsys)
    assert (code, len(lines)) == (2, 1)
    assert "--schedule.name linear of 20 steps ends at alpha = 0, where an eps network says nothing of x_0" in lines[0]
    assert "--diffusion.parameterization v" in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [20, 21])
def test_other_networks_and_longer_schedules_are_accepted(steps):
    linear = schema.Schedule(name="linear", num_steps=steps)
    assert bool(schedule.linear(steps).alpha[-1]) == (steps > 20)
    accepted = {"num_steps": 0} if steps == 20 else {}
    checks.check(schema.Experiment(schedule=linear, diffusion=schema.Diffusion(**accepted)))
    checks.check(schema.Experiment(schedule=linear, diffusion=schema.Diffusion(parameterization="v")))


OWN = """
from guided_jax.app.settings import Classifier, Encoder, Experiment, Diffusion

NETWORK = Encoder(model_channels=8, channel_mult=(1,), num_head_channels=8, num_groups=4)
EXPERIMENT = Experiment(
    diffusion=Diffusion(num_steps=0),
    classifier=Classifier(num_steps=1, batch_size=8, eval_examples=8, network=NETWORK),
)
"""


@pytest.mark.slow
def test_an_experiment_of_the_user_is_trained_from_its_path(place, tmp_path, monkeypatch, capsys):
    """In a folder that is no checkout, into runs/NAME there."""
    (tmp_path / "my_experiment.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    arguments = ["./my_experiment.py", "--data.dir", str(place / "data"), "--classifier.log-every", "1"]
    code, out, err = run_script(train.main, arguments, capsys)
    assert code == 0, err
    assert out.startswith("runs/my_experiment: trained in ")
    assert [row["step"] for row in log.read(tmp_path / "runs/my_experiment/classifier/metrics.jsonl")] == [1]
    assert sorted(path.name for path in (tmp_path / "runs/my_experiment").iterdir()) == ["classifier", "config.json"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("./mine.py", None, "there is no file mine.py"),
        ("mine.py", "x = 3", "mine.py has no EXPERIMENT; set it to a guided_jax.app.settings.Experiment"),
        ("mine", "x = 3", "there is no experiment 'mine'; there is cifar10, digits, "),
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path, monkeypatch, capsys, name, text, words):
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "mine.py").write_text(text)
    code, _, err = run_script(train.main, [name], capsys)
    assert (code, words in err) == (2, True), err


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(train.main, []), (train.main, ["digits"]), (judge.main, []), (posthoc.main, []), (curves.main, [])],
)
def test_help_is_one_page(capsys, main, arguments):
    code, out, err = run_script(main, [*arguments, "--help"], capsys)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 100
    assert out.startswith("usage: guided-jax ")
    assert "--help-all" in out


def test_the_options_that_the_help_names_exist(capsys):
    """All of --help are in --help-all, which has every option."""
    for main, arguments in ((train.main, ["digits"]), (judge.main, []), (posthoc.main, [])):
        page = run_script(main, [*arguments, "--help"], capsys)[1]
        code, everything, _ = run_script(main, [*arguments, "--help-all"], capsys)
        assert code == 0
        options = set(re.findall(r"^  (--[\w.-]+)", page, re.MULTILINE))
        assert len(options) >= 3
        assert not [option for option in options if f"{option} " not in everything]


def test_the_list_of_experiments_is_that_of_the_folder(capsys):
    page = run_script(train.main, ["--help"], capsys)[1]
    assert all(re.search(rf"\b{name}\b", page) for name in experiments.names())


def diffusion(**settings):
    return schema.Diffusion(**{"num_steps": 3000, "checkpoint_every": 500, "eval_every": 250, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, None),
        ({"eval_every": 300}, "held_out_loss: every 1500 steps and the last"),
        ({"eval_every": 300, "num_steps": 1500}, "held_out_loss: the last step alone"),
        ({"eval_every": 1000}, "held_out_loss: every 1000 steps and the last"),
        ({"eval_every": 300, "keep_best": False}, None),
        ({"eval_every": 0}, None),
        ({"num_steps": 0, "eval_every": 300}, None),
        ({"keep_best_by": "samples_fd", "measure_every": 1500}, "samples_fd: every 1500 steps and the last"),
    ],
)
def test_a_best_checkpoint_among_few_is_announced(settings, words):
    """Cadences that do not divide: the best is chosen among the checkpoints of evaluated steps."""
    note = best_checkpoint.note("diffusion", diffusion(**settings))
    assert (note is None) == (words is None)
    assert words is None or f"the best diffusion checkpoint is chosen among those with {words} (" in note
    best_checkpoint.check("diffusion", diffusion(**settings), {"samples_fd"})


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"keep_best": False}])
def test_a_classifier_whose_best_is_not_kept_needs_no_metric_that_exists(settings):
    """It has no samples to measure; kept nowhere, the metric is not looked for."""
    classifier = schema.Classifier(keep_best_by="samples_fd", **settings)
    assert best_checkpoint.note("classifier", classifier) is None


def test_the_note_is_printed_at_the_start(place, capsys):
    code, out, _ = run_script(train.main, words(place, place / "run"), capsys)
    assert code == 0
    assert "note: the best classifier checkpoint is chosen among those with held_out_loss: the last step alone" in out
    assert "classifier is trained: step 6 of 6" in out


def test_data_without_a_held_out_part_is_told_from_damaged_data(tmp_path):
    """Of the first a judge has no accuracy; the second is an error, and the accuracy is not dropped in silence."""

    def held_out(split="test"):
        settings = schema.Data(name=f"npz:{tmp_path / 'set.npz'}", held_out=split)
        known = facts.Facts((8, 8, 1), 2, (0.5, 0.5))
        return judge.pictures_held_out(runs.assemble(schema.Experiment(data=settings), known))

    np.savez(tmp_path / "set.npz", np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2)
    assert len(held_out()) == 2
    assert held_out("validation") is None
    np.savez(tmp_path / "set.npz", np.zeros((18, 8, 8, 1), np.uint8), np.arange(18) % 2)
    assert held_out() is None  # too few for one to be held out
    (tmp_path / "set.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"set\.npz is damaged"):
        held_out()


@pytest.mark.slow
def test_an_unfinished_judge_of_other_data_is_refused(place, tmp_path, monkeypatch):
    """Two runs whose pictures have one shape: the second does not continue the judge of the first."""
    monkeypatch.setattr(judge, "EVERY", 1)
    options = {"out": tmp_path / "judge", "batch_size": 8, "channels": (8, 8), "devices": 1}
    run = runs.load(place / "run")
    with pytest.raises(ValueError, match="4 channels cannot be split into 8 norm groups"):
        judge.train(judge.Judging(place / "run", **{**options, "channels": (4, 4)}), run)
    assert not (tmp_path / "judge").exists()
    judge.train(judge.Judging(place / "run", num_steps=1, **options), run)
    other = run._replace(source=lambda held_out: first_hundred(run.source(held_out)))
    with pytest.raises(ValueError, match=r"was made with another configuration: .*data\.num_examples: 1437 -> 100"):
        judge.train(judge.Judging(place / "run", num_steps=2, **options), other)
    judge.train(judge.Judging(place / "run", num_steps=2, **options), run)
    assert checkpoint.latest(tmp_path / "judge" / "checkpoints") == 2


def first_hundred(source):
    rows = source.read(np.arange(100))
    return data.in_memory(rows["image"], rows["label"], num_classes=10)
