"""One writer for each folder, and no lock that outlives its process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from guided_jax.storage import lock
from tests.scripts import ROOT

HOLDER = """
import sys, time
from guided_jax.storage import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path / "run"."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_with_host_process_and_time_of_the_first(holder, tmp_path):
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    words = rf"^.*run is in use by process {holder.pid} on {re.escape(socket.gethostname())} since {when}; wait"
    with pytest.raises(ValueError, match=words), lock.hold(tmp_path / "run"):
        pass
    with lock.hold(tmp_path / "other"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_does_not_hold_it(holder, tmp_path, number):
    holder.send_signal(number)
    holder.wait()
    with lock.hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / lock.NAME).read_text())["process"] == os.getpid()


def test_nothing_is_left_of_it(tmp_path):
    for _ in range(2):
        with lock.hold(tmp_path / "run"):
            assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.NAME]
        assert not list((tmp_path / "run").iterdir())
    with pytest.raises(KeyError), lock.hold(tmp_path / "run"):
        raise KeyError
    with lock.hold(tmp_path / "run"):
        pass


def test_within_one_process_too_and_a_half_written_note_is_no_obstacle(tmp_path):
    with lock.hold(tmp_path):
        (tmp_path / lock.NAME).write_text('{"host": ')
        with pytest.raises(ValueError, match="is in use by another process; wait"), lock.hold(tmp_path):
            pass


def test_a_lock_file_that_its_holder_just_removed_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """Opened by the second, removed by the first at its end, and only then locked by the second."""
    real, calls = lock._flock, []

    def flock(file):
        if not calls:
            (tmp_path / lock.NAME).unlink()
        calls.append(file)
        real(file)

    monkeypatch.setattr(lock, "_flock", flock)
    with lock.hold(tmp_path):
        assert (tmp_path / lock.NAME).stat().st_ino == os.fstat(calls[-1].fileno()).st_ino
    assert len(calls) == 2


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with lock.hold(tmp_path), lock.hold(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot make the directory .*file/run: "), lock.hold(tmp_path / "file" / "run"):
        pass
