"""Progress on stderr: a bar on a terminal, elsewhere a plain line every ten seconds, so that log files stay readable."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

INTERVAL = 10.0  # seconds between two lines where stderr is not a terminal


class Bar(Protocol):
    """What `bar` yields."""

    def update(self, n: int = 1, **shown: Any) -> None:
        """Count `n` more as done; `shown` are values to show beside the count, such as loss="0.0413"."""


@contextlib.contextmanager
def bar(total: int, label: str, unit: str, initial: int = 0, disable: bool = False) -> Iterator[Bar]:
    """Show how much of `total` is done while the block runs.

    Args:
      total: how many units there are.
      label: what is under way, such as "diffusion".
      unit: the name of one unit, such as "step".
      initial: how many units were done before, which do not count for the speed.
      disable: show nothing.
    """
    shown: Any = _Bar if sys.stderr.isatty() else _Lines
    progress = shown(total, label, unit, min(initial, total), disable)
    try:
        yield progress
    finally:
        progress.close()


class _Bar:
    """A tqdm bar. A terminal that is gone (SIGHUP) does not end the work."""

    def __init__(self, total: int, label: str, unit: str, initial: int, disable: bool):
        from tqdm import tqdm  # only where it is shown

        self.tqdm = tqdm(total=total, desc=label, unit=unit, initial=initial, disable=disable, mininterval=0.2)

    def update(self, n: int = 1, **shown: Any) -> None:
        with contextlib.suppress(OSError):
            self.tqdm.set_postfix(shown, refresh=False)
            self.tqdm.update(n)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.tqdm.close()


class _Lines:
    """Plain lines, written by a thread: they come while a step is still compiling too."""

    def __init__(self, total: int, label: str, unit: str, initial: int, disable: bool, file: IO[str] | None = None):
        self.status = Status(total, label, unit, initial)
        self.file, self.closed, self.written = file or sys.stderr, threading.Event(), 0
        self.thread = threading.Thread(target=self._write_lines, name="progress", daemon=True)
        if not disable:
            self.thread.start()

    def update(self, n: int = 1, **shown: Any) -> None:
        self.status.update(n, **shown)

    def close(self) -> None:
        self.closed.set()
        if self.thread.ident is not None:
            self.thread.join()
        if self.written:  # work that took less than one interval is not mentioned
            self._write()

    def _write_lines(self) -> None:
        while not self.closed.wait(INTERVAL):
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a pipe that nobody reads any more
            print(self.status.line(), file=self.file, flush=True)
            self.written += 1


class Status:
    """How much is done, and how fast it goes; `clock` returns seconds."""

    def __init__(
        self, total: int, label: str, unit: str, initial: int = 0, clock: Callable[[], float] = time.monotonic
    ):
        self.total, self.label, self.unit, self.clock = total, label, unit, clock
        self.done, self.shown = initial, ""
        self.first: tuple[int, float] | None = None  # (done, time) after the first update, which compiles

    def update(self, n: int = 1, **shown: Any) -> None:
        self.done += n
        self.first = self.first or (self.done, self.clock())
        self.shown = "".join(f", {name} {value}" for name, value in shown.items())

    def line(self) -> str:
        """Return one line: "diffusion: step 120 of 1500, loss 0.0413, 3.1 steps/s, about 7 min left"."""
        return f"{self.label}: {self.unit} {self.done} of {self.total}{self.shown}{self._speed()}"

    def _speed(self) -> str:
        done, start = self.first or (self.done, 0.0)
        if self.done <= done or (seconds := self.clock() - start) <= 0:
            return ""
        rate = (self.done - done) / seconds
        speed = f", {rate:.1f} {self.unit}s/s" if rate >= 1 else f", {1 / rate:.1f} s/{self.unit}"
        return speed + (f", about {_duration((self.total - self.done) / rate)} left" if self.done < self.total else "")


def _duration(seconds: float) -> str:
    """Return a rounded duration: 40 s, 7 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
