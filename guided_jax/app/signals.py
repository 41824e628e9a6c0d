"""A polite end: a signal to stop is remembered, so that the step under way can finish and be saved."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def remembered(*signals: signal.Signals) -> Iterator[Callable[[], signal.Signals | None]]:
    """Within, the first of these signals is only remembered; what is yielded returns it, None while there was none.

    A second one does what it always did, so two times Ctrl-C ends at once. For the main thread.
    """
    received: list[signal.Signals] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        restore()
        print(f"{received[0].name}: finishing this step and saving", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, remember) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
