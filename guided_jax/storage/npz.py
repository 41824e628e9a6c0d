"""Arrays in npz files, which may be damaged, hostile, or something else; nothing is unpickled."""

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def open_npz(path: str | os.PathLike) -> Iterator[Any]:
    """Open an npz file and yield its arrays by name, each read when it is asked for.

    Whatever goes wrong within the block is reported as one sentence that names the file: do nothing but read there. Raises
    ValueError for a file that is damaged or no archive of plain arrays, OSError for one that cannot be read.
    """
    try:
        with Path(path).open("rb") as raw:
            if not zipfile.is_zipfile(raw):
                raise ValueError("it is no zip archive, or cut short")
        with np.load(path, allow_pickle=False) as file:
            yield file
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # arbitrary bytes, read as an archive of headers and arrays
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged, or no npz file of arrays ({reason})") from error


def read(path: str | os.PathLike, names: Iterable[str]) -> dict[str, np.ndarray | None]:
    """Return {name: array}, None where the file has none of that name. Errors as of `open_npz`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", mean=np.zeros(2))
    ...     read(f"{folder}/a.npz", ["mean", "labels"])
    {'mean': array([0., 0.]), 'labels': None}
    """
    with open_npz(path) as file:
        return {name: file[name] if name in file.files else None for name in names}
