"""Samples written while they are drawn: any number of them in constant memory, resumable after a kill.

Meanwhile a folder `.samples.partial` beside the target holds the two arrays in numpy's format, and a note with the number
of rows that are done and the request they belong to. At the end they become one npz file, by one rename.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_jax.storage import lock
from guided_jax.storage.files import replacing

IMAGES, LABELS = "arr_0.npy", "arr_1.npy"  # ADM's names inside the npz


class Stream(NamedTuple):
    """The arrays on disk, and their folder."""

    folder: Path
    request: Mapping[str, Any]
    images: np.ndarray  # uint8 (N, H, W, C), or what was asked for
    labels: np.ndarray  # int64 (N,)


@contextlib.contextmanager
def open_stream(
    target: Path,
    count: int,
    image_shape: tuple[int, ...],
    request: Mapping[str, Any],
    dtype: Any = np.uint8,
    before_discard: Callable[[Any], None] = lambda request: None,
) -> Iterator[tuple[Stream, int]]:
    """Yield (stream, rows done) for `count` images of a dtype, of an interrupted run if it had the same request.

    The unfinished rows of another request are discarded, after `before_discard` was called with that request, which may
    raise. The folder of `target` has one writer: ValueError names another process that holds it. Raises OSError when there
    is no room, which is reserved before the first row.
    """
    folder = target.with_name(f".{target.stem}.partial")
    with lock.hold(target.parent):
        note = _note_of(folder)
        if note and note["done"] and note["request"] != request:
            before_discard(note["request"])
        yield _begin(folder, count, image_shape, request, dtype)


def _begin(
    folder: Path, count: int, image_shape: tuple[int, ...], request: Mapping[str, Any], dtype: Any
) -> tuple[Stream, int]:
    shapes = {IMAGES: (dtype, (count, *image_shape)), LABELS: (np.int64, (count,))}
    done = _done(folder, request)
    if done is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, (dtype, shape) in shapes.items():
            _reserve(folder / name, dtype, shape)
    arrays = [np.lib.format.open_memmap(folder / name, "r+", *shapes[name]) for name in (IMAGES, LABELS)]
    stream = Stream(folder, request, arrays[0], arrays[1])
    if done is None:
        _note(stream, 0)
    return stream, done or 0


def _reserve(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Write the header of an array and reserve its room: a sparse file on a full disk would end the process later."""
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if needed > shutil.disk_usage(path.parent).free:  # reserving it would fill the disk before it fails
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise OSError(f"cannot reserve {needed / 2**20:.0f} MiB in {path.parent}: {error.strerror or error}") from error


def put(stream: Stream, start: int, images: np.ndarray, labels: np.ndarray) -> None:
    """Write rows start .. start + n; they count as done once they are on the disk."""
    rows = slice(start, start + len(images))
    stream.images[rows], stream.labels[rows] = images, labels
    stream.images.flush()  # type: ignore[attr-defined]
    stream.labels.flush()  # type: ignore[attr-defined]
    _note(stream, rows.stop)


def finish(stream: Stream, target: Path) -> None:
    """Write the npz file of the arrays, copied through a small buffer, and remove the folder."""
    with replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in (IMAGES, LABELS):
            archive.write(stream.folder / name, name)
    shutil.rmtree(stream.folder)


def _done(folder: Path, request: Mapping[str, Any]) -> int | None:
    """Return how many rows of the request are in the folder, None where it holds none of it that can be continued."""
    note = _note_of(folder)
    return note["done"] if note and note["request"] == request else None


def _note_of(folder: Path) -> dict[str, Any] | None:
    """Return {"done", "request"} of a folder with both arrays, None where something is missing or damaged."""
    try:
        note = json.loads((folder / "progress.json").read_text())
        whole = all((folder / name).is_file() for name in (IMAGES, LABELS))
        return {"done": int(note["done"]), "request": note["request"]} if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(stream: Stream, done: int) -> None:
    with replacing(stream.folder / "progress.json") as file:
        file.write(json.dumps({"done": done, "request": stream.request}).encode())
