"""Stop signals that let the step under way finish and be saved."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

# Ctrl-C, and what schedulers and closed terminals send; not every platform has all of them.
STOP = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


@contextlib.contextmanager
def defer(*signals: signal.Signals) -> Iterator[Callable[[], signal.Signals | None]]:
    """Yield a function that returns the first of these signals that was received, None before.

    A second signal has its usual effect, so a second Ctrl-C ends the process at once. A SIGHUP that is ignored (nohup)
    stays ignored. For the main thread.
    """
    received: list[signal.Signals] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        restore()
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"{received[0].name}: finishing this step and saving", file=sys.stderr, flush=True)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    chosen = [number for number in signals if not _ignored_hangup(number)]
    before = {number: signal.signal(number, handle) for number in chosen}
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()


def _ignored_hangup(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
