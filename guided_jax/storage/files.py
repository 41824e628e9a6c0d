"""Files that are whole or absent: everything is written under a temporary name and then moved into place."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes the name `path` only when the block ends without an error.

    Missing parent directories are made. Raises OSError in one sentence when the place cannot be written.
    """
    path = Path(path)
    # The same directory, so that the move is one rename on one file system; the process id keeps two writers apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def answers(path: str | os.PathLike, asked: Any) -> bool:
    """Whether the JSON file says under "asked" that this is what it answers; not if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())["asked"] == asked
    except (OSError, ValueError, KeyError, TypeError):
        return False


def writable_directory(path: str | os.PathLike) -> Path:
    """The directory as an absolute Path, made if missing; OSError in one sentence when it cannot be written."""
    path = Path(path).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the directory {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(f"the directory {path} is not writable")
    return path
