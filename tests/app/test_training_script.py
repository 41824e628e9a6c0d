"""The train command: held-out rows, divergence, damaged checkpoints, signals, locks."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guided_jax.app import cli
from guided_jax.app.train import command as train
from guided_jax.storage import checkpoint, log

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
    assert (place / "run" / "classifier" / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_held_out_metrics_do_not_depend_on_when_they_are_computed(place, capsys):
    """The same parameters have the same metrics, however often they were evaluated before."""
    arguments = words(place, place / "other", classifier__eval_every=2, classifier__checkpoint_every=6)
    assert call(arguments, capsys)[0] == 0
    last = [log.read(place / name / "classifier" / "metrics.jsonl")[-1] for name in ("run", "other")]
    assert last[0] == last[1]


def test_divergence_is_one_sentence_with_the_step(place, tmp_path, capsys):
    rate = {"classifier__optimizer__learning_rate": 1e30, "classifier__optimizer__warmup_steps": 0}
    code, said = call(words(place, tmp_path / "run", **rate), capsys)
    assert code == 2
    assert len(said) == 1
    assert "at step" in said[0]
    assert "try a lower learning rate" in said[0]
    assert not checkpoint.steps(tmp_path / "run" / "classifier" / "checkpoints")


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
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(tmp_path, number, code):
    arguments = words(tmp_path, tmp_path / "run", classifier__num_steps=100_000)
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while (checkpoint.latest(tmp_path / "run" / "classifier" / "checkpoints") or 0) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert "stopped and saved; the same command resumes it" in said
