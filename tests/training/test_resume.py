"""A run that was killed, stopped, damaged or out of disk space resumes to the end of an undisturbed one, bit for bit."""

import os
import random
import resource
import shutil
import signal
import time

import chex
import jax
import numpy as np
import pytest

from guided_jax import data, parallel
from guided_jax.app import signals
from guided_jax.storage import checkpoint, log, manifest
from guided_jax.training import loop
from tests import processes, tiny
from tests.scripts import alone

RNG = np.random.default_rng(0)
SOURCE = data.in_memory(RNG.integers(0, 256, (100, 8, 8, 1)), RNG.integers(0, 10, 100), num_classes=10)
DEVICES = jax.devices()[:2]
STEP = parallel.data_parallel(tiny.train_step, DEVICES)


def fit(directory, num_steps=30, devices=DEVICES, step=STEP, **options):
    batches = data.loader(SOURCE, 16, seed=5, flip=True)
    stop = options.pop("stop", loop.never)
    options = {"save_every": 10, "log_every": 4, "keep": 3, **options}
    init = lambda: parallel.place(tiny.state(), devices)  # noqa: E731
    return loop.fit(loop.Job(step, init, batches, num_steps, directory, **options), stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run; the tests only read it."""
    directory = tmp_path_factory.mktemp("whole")
    fit(directory)
    return directory


def copied(whole, directory):
    """Make a directory the copy of an undisturbed run."""
    shutil.copytree(whole, directory, dirs_exist_ok=True)


def contents(directory):
    """Return everything that a run has: step, state, position of the data, rows."""
    found = checkpoint.restore(directory / "checkpoints", tiny.state())
    state = jax.device_get(found.state._replace(key=jax.random.key_data(found.state.key)))
    return found.step, state, found.data_state, (directory / "metrics.jsonl").read_bytes()


def assert_same(one, other):
    (one_step, one_state, *one_rest), (other_step, other_state, *other_rest) = contents(one), contents(other)
    chex.assert_trees_all_equal(one_state, other_state)
    assert (one_step, one_rest) == (other_step, other_rest)


def start(out, data_dir, steps, devices=2):
    return processes.start("-m", "tests.training_process", "whole", out, data_dir, steps, devices, 2, env=alone())


def reaches(process, out, step):
    """Wait for a checkpoint; return False when the process ended first."""
    while process.poll() is None:
        if (checkpoint.latest(out / "checkpoints") or 0) >= step:
            return True
        time.sleep(0.002)
    return False


def assert_whole(out):
    """Assert that every numbered folder is as it was written."""
    for step in checkpoint.steps(out / "checkpoints"):
        manifest.verify(out / "checkpoints" / str(step))


def kill_and_compare(tmp_path, kills, steps):
    """Kill a run so many times, at random, most often within a write, and compare its end with an undisturbed run."""
    undisturbed = start(tmp_path / "whole", tmp_path / "data", steps)
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    draw, out = random.Random(0), tmp_path / "killed"
    for kill in range(kills):
        process = start(out, tmp_path / "data", steps)
        assert reaches(process, out, (kill + 1) * steps // (kills + 2)), process.stderr.read()
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert_whole(out)
    last = start(out, tmp_path / "data", steps)
    assert last.wait() == 0, last.stderr.read()
    assert_same(tmp_path / "whole", out)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [str(steps - 2), str(steps)]


@pytest.mark.slow  # in the fast suite it is told to stop, or left as a kill leaves it, in this process
def test_a_run_killed_twice_equals_an_undisturbed_one_bit_for_bit(tmp_path):
    kill_and_compare(tmp_path, kills=2, steps=24)


@pytest.mark.slow
def test_a_run_killed_twenty_times_equals_an_undisturbed_one_bit_for_bit(tmp_path):
    kill_and_compare(tmp_path, kills=20, steps=500)


@pytest.mark.parametrize("number", signals.STOP, ids=lambda number: number.name)
def test_a_stop_signal_saves_and_prints_its_name(whole, tmp_path, capsys, number):
    before = signal.signal(number, lambda *_: None)  # not ignored, as SIGHUP is of tests that outlive their terminal
    try:
        with signals.defer(*signals.STOP) as stop:
            state = fit(tmp_path, stop=stop, hooks=[(13, lambda done, state: os.kill(os.getpid(), number))])
    finally:
        signal.signal(number, before)
    assert f"{number.name}: finishing this step and saving" in capsys.readouterr().err
    assert int(state.step) == checkpoint.latest(tmp_path / "checkpoints") == 13
    fit(tmp_path)
    assert_same(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", signals.STOP, ids=lambda number: number.name)
def test_a_process_that_is_told_to_stop_saves_and_prints_the_name(tmp_path, number):
    out = tmp_path / "run"
    process = start(out, tmp_path / "data", 100_000)
    assert reaches(process, out, 8)
    process.send_signal(number)
    out_text, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{number.name}: finishing this step and saving" in err
    assert checkpoint.latest(out / "checkpoints") == int(out_text) >= 8
    assert_whole(out)


@pytest.mark.parametrize("dispatch", [1, 5])
def test_a_stopped_run_resumes_bit_for_bit(whole, tmp_path, dispatch):
    answers = iter([False] * 13 + [True])
    state = fit(tmp_path, stop=lambda: next(answers))
    assert int(state.step) == checkpoint.latest(tmp_path / "checkpoints") == 13
    fit(tmp_path, steps_per_dispatch=dispatch)  # on CPU several steps at once are the same steps
    assert_same(whole, tmp_path)


def test_on_another_number_of_devices_a_resumed_run_agrees_to_rounding(whole, tmp_path):
    answers = iter([False] * 13 + [True])
    fit(tmp_path, stop=lambda: next(answers))
    devices = jax.devices()[:4]
    fit(tmp_path, devices=devices, step=parallel.data_parallel(tiny.train_step, devices))
    (_, one, position, _), (_, other, there, _) = contents(whole), contents(tmp_path)
    assert position == there
    chex.assert_trees_all_close(one, other, atol=1e-5)
    rows, others = (log.read(place / "metrics.jsonl") for place in (whole, tmp_path))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in others], rtol=1e-5)


def damage(path, kind):
    written = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(written[: len(written) // 2])
    elif kind == "gone":
        path.unlink()
    else:
        written[len(written) // 2] ^= 1
        path.write_bytes(written)


@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("pattern", ["state/d/*", "state/manifest.ocdbt", "_CHECKPOINT_METADATA", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(whole, tmp_path, pattern, kind, capfd):
    copied(whole, tmp_path)
    (path,) = (tmp_path / "checkpoints" / "30").glob(pattern)
    damage(path, kind)
    name = (
        rf"^the checkpoint .*/30 is damaged: {path.relative_to(tmp_path / 'checkpoints' / '30')} [^\n]+; the one before"
    )
    with pytest.warns(checkpoint.Damaged, match=name):
        checkpoint.load_params(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"^the checkpoint .*/30 is damaged: [^\n]+$"):
        checkpoint.restore(tmp_path / "checkpoints", tiny.state(), step=30)
    with pytest.warns(checkpoint.Damaged, match=name):
        fit(tmp_path)
    assert_same(whole, tmp_path)
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == ["10", "20", "30", "damaged-30"]
    assert "Traceback" not in capfd.readouterr().err


def test_when_all_are_damaged_nothing_is_overwritten(whole, tmp_path):
    copied(whole, tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
        damage(path, "flipped")
    with (
        pytest.warns(checkpoint.Damaged, match="the one before it is used"),
        pytest.raises(ValueError, match=r"/10 is damaged: .*; there is none before it: move the directory away"),
    ):
        fit(tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoints") == [10, 20, 30]


def limit_files(size):
    """Let writing fail beyond so many bytes, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def _unlimited():
    yield
    limit_files(resource.RLIM_INFINITY)


@pytest.mark.usefixtures("_unlimited")
def test_a_full_disk_is_one_sentence_and_harms_no_checkpoint(whole, tmp_path, capfd):

    def fill(done, state):
        while checkpoint.latest(tmp_path / "checkpoints") != 10:  # still under way
            time.sleep(0.01)
        limit_files(8000)

    words = r"^cannot write checkpoint 20 in .*/checkpoints: File too large; those saved before are as they were$"
    with pytest.raises(OSError, match=words):
        fit(tmp_path, hooks=[(18, fill)])
    assert "Traceback" not in capfd.readouterr().err
    assert checkpoint.latest(tmp_path / "checkpoints") == 10
    assert_whole(tmp_path)
    # The next start has as little room: it reads what is there, and again loses nothing.
    with pytest.raises(OSError, match=words):
        fit(tmp_path)
    assert_whole(tmp_path)
    limit_files(resource.RLIM_INFINITY)
    fit(tmp_path)
    assert_same(whole, tmp_path)


@pytest.mark.usefixtures("_unlimited")
def test_metrics_that_cannot_be_written_are_one_sentence(whole, tmp_path):
    with pytest.raises(OSError, match=r"^cannot write .*/metrics.jsonl: File too large$"):
        fit(tmp_path, hooks=[(15, lambda done, state: limit_files(300))])
    limit_files(resource.RLIM_INFINITY)
    assert [row["step"] for row in log.read(tmp_path / "metrics.jsonl")][:3] == [4, 8, 12]
    fit(tmp_path)
    assert_same(whole, tmp_path)


def test_a_read_only_directory_is_one_sentence(whole, tmp_path, monkeypatch):
    fit(tmp_path, 20)
    before = contents(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # chmod does not stop root
    with pytest.raises(OSError, match=r"^the directory .*/checkpoints is not writable$"):
        fit(tmp_path)
    monkeypatch.undo()
    after = contents(tmp_path)
    chex.assert_trees_all_equal(before[1], after[1])
    assert (before[0], *before[2:]) == (after[0], *after[2:])
    fit(tmp_path)
    assert_same(whole, tmp_path)


def test_the_remains_of_a_kill_are_removed(whole, tmp_path):
    fit(tmp_path, 20)
    for name in ("writing-30", "deleting-10", "writing-30.orbax-checkpoint-tmp", "40.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name / "state").mkdir(parents=True)
    fit(tmp_path)
    assert_same(whole, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "20", "30"]


def test_a_start_that_resumes_says_from_where(tmp_path, capsys):
    fit(tmp_path, 10, label="judge")
    assert capsys.readouterr().out == ""
    fit(tmp_path, 30, label="judge")
    assert capsys.readouterr().out == "resuming judge from step 10 of 30\n"
    fit(tmp_path, 30, label="judge")
    assert capsys.readouterr().out == "judge is trained: step 30 of 30\n"


def test_a_given_start_is_made_once_and_not_to_resume(whole, tmp_path):
    """The other weights need not be there any more."""
    fit(tmp_path, 10, start=lambda: parallel.place(tiny.state(seed=3), DEVICES))
    fit(tmp_path, 30, start=lambda: 1 / 0)
    fit(tmp_path / "other", start=lambda: parallel.place(tiny.state(seed=3), DEVICES))
    undisturbed, given, other = (contents(place)[1] for place in (whole, tmp_path, tmp_path / "other"))
    chex.assert_trees_all_equal(given, other)
    assert np.any(given.params["params"]["kernel"] != undisturbed.params["params"]["kernel"])
