"""What `make test` prints is about the tests."""

import os

import pytest

from tests import processes

SLOW_TO_END = """
import gc, os, time

def pytest_unconfigure(config):
    end = time.monotonic() + 8 * ("PYTEST_XDIST_WORKER" in os.environ)
    while time.monotonic() < end:
        gc.collect()
"""


@pytest.mark.slow
def test_a_worker_that_is_slow_to_end_prints_no_traceback(tmp_path):
    """After 5 seconds the runner sends it a SIGINT."""
    (tmp_path / "slow_to_end.py").write_text(SLOW_TO_END)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join([str(tmp_path), str(processes.ROOT), environment.get("PYTHONPATH", "")])
    words = ["-m", "pytest", "-p", "slow_to_end", "-n", 1, "tests/mathematics/test_any_shape.py", "-k", "clipped"]
    process = processes.start(*words, env={**environment, "PYTHONPATH": path})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "1 passed" in out
    assert "KeyboardInterrupt" not in out + err
