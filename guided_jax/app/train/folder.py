"""The folder of a training: one writer, and nothing left of a first start that failed."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from guided_jax import parallel
from guided_jax.app.settings import TRAINED
from guided_jax.storage import checkpoint, lock, log

# What training writes into the folder of a run, its description first.
RUN = ("config.json", *TRAINED, "latents", "latents.writing")


@contextlib.contextmanager
def exclusive(out: Path, names: Sequence[str] = RUN) -> Iterator[None]:
    """Hold the folder's lock while the block runs.

    When the block of a first start raises before any step was trained, remove what it wrote, so that the corrected command
    is not "another run". names: of the files and folders that it writes, first the one that says what is trained. Raises
    ValueError when another process holds the lock. Of several processes the first holds it.
    """
    if not parallel.primary():
        yield
        return
    absent = [path for path in (out, *out.parents) if not path.exists()]
    try:
        with lock.hold(out), _undo(out, names):
            yield
    except BaseException:
        for folder in absent:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def _undo(out: Path, names: Sequence[str]) -> Iterator[None]:
    """Remove what the block wrote, if it raises and no step was trained."""
    absent = [out / name for name in names if not (out / name).exists()]
    try:
        yield
    except BaseException:
        if out / names[0] in absent and not _has_trained(out):
            for path in absent:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _has_trained(out: Path) -> bool:
    """Return whether a step of any network was recorded or saved."""
    places = [out, *(out / part for part in TRAINED)]
    return any(log.read(place / "metrics.jsonl") or checkpoint.steps(place / "checkpoints") for place in places)
