"""The options of commands that several processes run together, which `guided-jax` takes before the command itself."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from guided_jax.app import cli, together
from guided_jax.app.sample import command as sample
from guided_jax.storage import images
from tests import processes
from tests.parallel.test_distributed import free_port
from tests.scripts import run_script


def run_commands(run, out, count, devices, divided="-"):
    """`tests.together_process` in so many processes of so many devices each; return what each printed."""
    out.mkdir()
    port, env = free_port(), {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": ""}
    ends = [[]] if count == 1 else [[f"localhost:{port}", count, process] for process in range(count)]
    words = ["-m", "tests.together_process", run, out, divided]
    started = [processes.start(*words, *end, env=env) for end in ends]
    ended = [(*process.communicate(timeout=900), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0] * count, ended
    return [printed for printed, *_ in ended]


@pytest.fixture(scope="module")
def by_one(tiny, tmp_path_factory):
    """What one process of two devices makes of the commands."""
    run, out = shutil.copytree(tiny, tmp_path_factory.mktemp("one") / "run"), tmp_path_factory.mktemp("out") / "out"
    run_commands(run, out, count=1, devices=2)
    return run, out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "devices", "divided"),
    [(2, 1, "-"), (2, 2, "--shard-parameters"), (2, 2, "--shard-parameters --shard-group 2"), (4, 1, "-")],
)
def test_several_processes_write_one_file_with_the_samples_of_one(by_one, tmp_path, count, devices, divided):
    run, expected = by_one
    out = tmp_path / "out"
    first, *others = run_commands(run, out, count, devices, divided)
    assert "process 0 is done" in first
    assert not [line for printed in others for line in printed.splitlines() if "Gloo" not in line]
    files = [{str(path.relative_to(each)) for path in each.rglob("*") if path.is_file()} for each in (expected, out)]
    in_both = [{name for name in names if "checkpoints" not in name} for names in files]
    assert in_both[0] == in_both[1]
    for name in sorted(name for name in in_both[0] if name.endswith("samples.npz")):
        (pictures, labels), (wanted, their) = (images.load_npz(each / name) for each in (out, expected))
        np.testing.assert_array_equal(labels, their)
        assert np.abs(pictures.astype(int) - wanted.astype(int)).max() <= 1  # a grey value, by rounding
    bits = [json.loads((each / "bits" / "bits.json").read_text())["bits_per_dim"] for each in (out, expected)]
    np.testing.assert_allclose(*bits, rtol=1e-4)
    rows = [json.loads((each / "sweep" / "sweep.json").read_text())["rows"] for each in (out, expected)]
    for row, other in zip(*rows, strict=True):
        measured = [{name: value for name, value in each.items() if value is not None} for each in (row, other)]
        assert measured[0] == pytest.approx(measured[1], rel=0.05, abs=0.02)


@pytest.mark.slow
def test_what_was_drawn_before_a_process_was_lost_is_kept(tiny, tmp_path):
    """Two processes draw, one is killed, and one process alone goes on from the chunks that are there."""
    out, port = tmp_path / "out", free_port()
    words = ["-m", "guided_jax", "sample", tiny, "--guidance", "none", "--steps", "3", "--out", out]
    words += ["--num-samples", 40_000, "--batch-size", 8]
    ends = ["--distributed.coordinator", f"localhost:{port}", "--distributed.num-processes", 2]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    first, second = (processes.start(*words, *ends, "--distributed.process-id", i, env=env) for i in range(2))
    wait_for_rows(out, 80)
    second.kill()
    _, complaint = first.communicate(timeout=90)
    assert first.returncode == 2, complaint
    assert "error: another process has gone" in complaint
    done = rows_done(out)
    assert 80 <= done < 40_000
    alone = processes.start(*words, env=env)
    wait_for_rows(out, done + 80)
    alone.kill()


def rows_done(out):
    """The number of rows that are done, 0 before the first."""
    try:
        return json.loads((out / ".samples.partial" / "progress.json").read_text())["done"]
    except FileNotFoundError:
        return 0


def wait_for_rows(out, count):
    for _ in range(1200):
        if rows_done(out) >= count:
            return
        time.sleep(0.1)
    pytest.fail(f"{count} rows were not drawn")


def test_the_options_are_taken_out_of_the_words_of_any_command():
    words = ["runs/digits", "--distributed.coordinator", "host0:1234", "--seed", "1", "--distributed.process-id=0"]
    taken, rest = together.take_options([*words, "--distributed.auto", "--out", "here", "--distributed.num-processes"])
    assert rest == ["runs/digits", "--seed", "1", "--out", "here"]
    assert taken == [*words[1:3], words[-1], "--distributed.auto", "--distributed.num-processes"]
    assert sample.parse(rest).seed == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("train digits --distributed.process-id -1", "--distributed.process-id is -1; give at least 0"),
        ("sample r --distributed.num-processes 2", "need a coordinator, their number and the id of each"),
        ("sweep r --distributed.num-processes", "--distributed.num-processes"),
        ("curves r --distributed.auto", "guided-jax curves runs in one process; leave out --distributed.*"),
    ],
)
def test_wrong_use_is_one_sentence(words, complaint, capsys):
    code, out, err = run_script(lambda words: cli.dispatch(words[0], words[1:]), words.split(), capsys)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert complaint in err
