"""The folder of a run while it is trained: one writer, and nothing left of a first start that failed."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from guided_jax import parallel
from guided_jax.app.train.networks import PARTS
from guided_jax.storage import checkpoint, lock, log


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the folder's lock while the block runs.

    When the block of a first start raises before any step was trained, remove what it wrote, so that the corrected command
    is not "another run". Raises ValueError when another process holds the lock. Of several processes the first holds it.
    """
    if not parallel.primary():
        yield
        return
    absent = [path for path in (out, *out.parents) if not path.exists()]
    try:
        with lock.hold(out), _undo(out):
            yield
    except BaseException:
        for folder in absent:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def _undo(out: Path) -> Iterator[None]:
    """Remove what the block wrote, if it raises and no step was trained."""
    config = out / "config.json"
    absent = [path for path in (config, *(out / part for part in PARTS)) if not path.exists()]
    try:
        yield
    except BaseException:
        if config in absent and not _has_trained(out):
            config.unlink(missing_ok=True)
            for path in absent:
                shutil.rmtree(path, ignore_errors=True)
        raise


def _has_trained(out: Path) -> bool:
    """Return whether a step of any network was recorded or saved."""
    places = [out / part for part in PARTS]
    return any(log.read(place / "metrics.jsonl") or checkpoint.steps(place / "checkpoints") for place in places)
