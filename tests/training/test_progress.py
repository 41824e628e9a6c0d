"""Progress where stderr is not a terminal: plain lines, as they arrive in a pipe."""

import re
import subprocess
import sys

import pytest

from guided_jax import progress
from tests.scripts import ROOT

PROGRAM = """
from guided_jax import progress
progress.INTERVAL = 0.01
with progress.bar(4, "diffusion", "step", initial=1) as bar:
    for loss in (0.5, 0.25, 0.125):
        written = bar.written
        bar.update(1, loss=loss)
        while bar.written < written + 2:  # at least one whole line after the update
            pass
"""


def test_a_pipe_receives_whole_lines_without_carriage_returns():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, check=True)
    assert b"\r" not in done.stderr
    assert b"\x1b" not in done.stderr
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    pattern = r"diffusion: step [1-4] of 4(, loss [\d.]+)?(, [\d.]+ (steps/s|s/step))?(, about [\d.]+ (s|min|h) left)?"
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert any("step 3 of 4, loss 0.25, " in line and " left" in line for line in lines)
    assert re.fullmatch(r"diffusion: step 4 of 4, loss 0.125, [\d.]+ (steps/s|s/step)", lines[-1])


def test_short_work_writes_nothing(capfd):
    with progress.bar(3, "sampling", "image") as bar:
        bar.update(3)
    assert capfd.readouterr() == ("", "")


def test_disabled_it_writes_nothing(monkeypatch, capfd):
    monkeypatch.setattr(progress, "INTERVAL", 0.001)
    with progress.bar(3, "sampling", "image", disable=True) as bar:
        bar.update(3)
        assert bar.thread.ident is None
    assert capfd.readouterr() == ("", "")


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.bar(10, "judge", "step", initial=20) as bar:  # more done before than there is
        bar.update(0, loss="0.5")
    assert terminal.text.startswith("\rjudge: 100%|")
    assert "10/10" in terminal.text


@pytest.mark.parametrize(
    ("seconds", "done", "line"),
    [
        (4.0, 20, "d: step 30 of 1000, 5.0 steps/s, about 3 min left"),  # 20 steps in 4 s, 970 to go
        (40.0, 1, "d: step 11 of 1000, 40.0 s/step, about 11.0 h left"),
        (10.0, 980, "d: step 990 of 1000, 98.0 steps/s, about 0 s left"),
        (10.0, 990, "d: step 1000 of 1000, 99.0 steps/s"),
    ],
)
def test_the_speed_leaves_out_the_first_update_which_compiles(seconds, done, line):
    times = iter([100.0, 100.0 + seconds])
    status = progress.Status(1000, "d", "step", clock=lambda: next(times))
    assert status.line() == "d: step 0 of 1000"
    status.update(10)
    status.first = status.first and (10, 100.0)
    status.update(done)
    assert status.line() == line
