"""Processes that train together, over real sockets: they are one process, they write one checkpoint, they stop together."""

import os
import signal
import socket
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from guided_jax import data, parallel
from guided_jax.storage import checkpoint, log
from tests import processes, tiny

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def start(out, data_dir, steps, count, devices=1, save_every=10, kind="whole"):
    """So many processes of as many devices each."""
    port = free_port()
    words = ["-m", "tests.training_process", kind, out, data_dir, steps, devices, save_every]
    ends = [[]] if count == 1 else [[f"localhost:{port}", count, process] for process in range(count)]
    return [processes.start(*words, *end) for end in ends]


def finish(processes):
    """The last line of each; all have to end well."""
    ended = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for *_, code in ended] == [0] * len(processes), ended
    return [out.splitlines()[-1] for out, *_ in ended]


def wait_for(out, step):
    for _ in range(600):
        if (checkpoint.latest(out / "checkpoints") or 0) >= step:
            return
        time.sleep(0.1)
    pytest.fail(f"checkpoint {step} did not appear")


def state_of(out):
    """Weights, averages and the moments of the gradients, with the position of the data."""
    found = checkpoint.restore(out / "checkpoints", tiny.state())
    return jax.device_get(found.state._replace(key=jax.random.key_data(found.state.key))), found.data_state


def the_same(one, other, atol=1e-6):
    (state, position), (others, there) = state_of(one), state_of(other)
    assert position == there
    chex.assert_trees_all_close(state, others, atol=atol)
    rows, other_rows = (log.read(out / "metrics.jsonl") for out in (one, other))
    assert [row["step"] for row in rows] == [row["step"] for row in other_rows]
    for row, other_row in zip(rows, other_rows, strict=True):
        np.testing.assert_allclose(list(row.values()), list(other_row.values()), rtol=1e-5)


def kill_one(out, started, step):
    """Kill the last of the processes after a checkpoint; the others end with one sentence, and with code 2."""
    wait_for(out, step)
    time.sleep(0.2)  # between two checkpoints
    started[-1].send_signal(signal.SIGKILL)
    for other in started[:-1]:
        _, complaint = other.communicate(timeout=60)
        assert other.returncode == 2, complaint
        assert "error: another process has gone, so this one stops; start all of them again" in complaint
        assert "Traceback" not in complaint


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One process, one device."""
    place = tmp_path_factory.mktemp("one")
    finish(start(place / "run", place / "data", 400, count=1, save_every=200))
    return place


def test_two_processes_are_one_even_when_one_of_them_is_killed(whole, tmp_path):
    """They go on with a part of the state on each of twice as many devices."""
    out = tmp_path / "run"
    kill_one(out, start(out, whole / "data", 100_000, count=2, save_every=200), 200)
    more = {"count": 2, "devices": 2, "save_every": 200, "kind": "parts"}
    assert finish(start(out, whole / "data", 400, **more)) == ["400", "400"]
    assert checkpoint.steps(out / "checkpoints") == [200, 400]
    the_same(whole / "run", out, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1, 2), (2, 4, 1)])
def test_a_state_in_parts_goes_on_over_any_number_of_processes(whole, tmp_path, counts):
    """One process of the first start is killed; the third start ends where one process with the whole state does."""
    out, parts = tmp_path / "run", {"kind": "parts", "save_every": 100}
    kill_one(out, start(out, whole / "data", 100_000, count=counts[0], **parts), 100)
    assert checkpoint.latest(out / "checkpoints") == 100
    for count, steps in zip(counts[1:], (300, 400), strict=True):
        assert finish(start(out, whole / "data", steps, count=count, **parts)) == [str(steps)] * count
    the_same(whole / "run", out, atol=1e-4)


def test_each_process_reads_its_own_part_of_every_batch():
    source = data.in_memory(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), np.arange(100) % 10, num_classes=10)
    whole = data.loader(source, 12, seed=1)
    parts = [data.loader(source, 12, seed=1, share=(process, 3)) for process in range(3)]
    for _ in range(10):
        batch, shares = next(whole), [next(part) for part in parts]
        np.testing.assert_array_equal(np.concatenate([share["image"] for share in shares]), batch["image"])
        assert len({float(value) for share in shares for value in share["image"].ravel()}) == 12


def test_joining_takes_everything_or_nothing():
    parallel.join(None, None, None)
    assert parallel.single_process()
    assert parallel.primary()
    assert parallel.share() == (0, 1)
    with pytest.raises(ValueError, match="need a coordinator, their number and the id of each"):
        parallel.join("localhost:1234", 2, None)
    with pytest.raises(ValueError, match="process 2 of 2: they count from 0 to 1"):
        parallel.join("localhost:1234", 2, 2)
    with pytest.raises(ValueError, match="cannot join the other processes: "):
        parallel.join(None, None, None, auto=True)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_all_processes_save_and_stop_when_one_is_stopped(whole, tmp_path, index):
    out = tmp_path / "run"
    processes = start(out, whole / "data", 100_000, count=2)
    wait_for(out, 10)
    processes[index].send_signal(signal.SIGTERM)
    first, second = finish(processes)
    assert first == second == str(checkpoint.latest(out / "checkpoints"))


@pytest.mark.slow
def test_without_the_first_process_the_others_end(whole, tmp_path):
    out = tmp_path / "run"
    first, second = start(out, whole / "data", 100_000, count=2, save_every=20)
    wait_for(out, 20)
    first.send_signal(signal.SIGKILL)
    _, complaint = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "another process has gone" in complaint or "another task died" in complaint


@pytest.mark.slow
def test_the_script_itself_in_two_processes(tmp_path):
    settings = {
        **{"diffusion.num-steps": 6, "diffusion.batch-size": 8, "diffusion.checkpoint-every": 3},
        **{"diffusion.log-every": 1, "diffusion.sample-every": 3, "diffusion.eval-every": 3, "schedule.num-steps": 20},
        **{"diffusion.network.model-channels": 16, "diffusion.network.num-groups": 8, "classifier.num-steps": 2},
        **{"classifier.batch-size": 8, "classifier.network.model-channels": 16, "data.dir": tmp_path / "data"},
        **{"diffusion.measure-every": 3, "diffusion.measure-samples": 20, "diffusion.keep-best-by": "samples_kid"},
    }
    settings |= {"diffusion.power-ema": 0.05, "diffusion.snapshot-every": 3}
    small = {"channel-mult": 1, "num-groups": 8, "num-head-channels": 16}
    settings |= {f"{part}.network.{name}": n for part in ("diffusion", "classifier") for name, n in small.items()}
    words = ["train.py", "digits", *(f"--{name}={value}" for name, value in settings.items())]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    ends = []
    parts, copies = ["--shard-parameters"], ["--shard-parameters", "--shard-group", 1]
    for name, count, more in (("one", 1, []), ("two", 2, []), ("parts", 2, parts), ("copies", 2, copies)):
        started, port = [], free_port()
        for process in range(count):
            together = [f"--distributed.coordinator=localhost:{port}", f"--distributed.num-processes={count}"]
            together = [*together, f"--distributed.process-id={process}"] if count > 1 else []
            started.append(processes.start(*words, *more, *together, f"--out={tmp_path / name}", env=environment))
        ended = [(*process.communicate(timeout=500), process.returncode) for process in started]
        assert [code for *_, code in ended] == [0] * count, ended
        ends.append({part: log.read(tmp_path / name / part / "metrics.jsonl") for part in ("diffusion", "classifier")})
    assert "samples_kid" in ends[1]["diffusion"][-1]
    made = [
        {path.name for path in (tmp_path / name / "diffusion").iterdir()} for name in ("one", "two", "parts", "copies")
    ]
    assert {"curves.png", "power_ema", "samples-000003.png"} < made[0] == made[1] == made[2] == made[3]
    for part, rows in ends[0].items():
        for others in (end[part] for end in ends[1:]):
            for row, other in zip(rows, others, strict=True):
                assert row.keys() == other.keys()
                np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-3, atol=1e-5)
