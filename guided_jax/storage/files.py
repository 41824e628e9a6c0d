"""Files that are whole or absent: each is written under a temporary name and then renamed."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the name `path` only when the block ends without an error.

    Missing parent directories are made. Raises OSError when the file cannot be written.
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


def is_result_of(path: str | os.PathLike, request: Any) -> bool:
    """Return whether a JSON file is of results of this request; False when it is missing or damaged.

    The file holds the request under "asked", or is the request itself.
    """
    try:
        found = json.loads(Path(path).read_text())
        return found.get("asked", found) == request
    except (OSError, ValueError, AttributeError):
        return False


def writable_directory(path: str | os.PathLike) -> Path:
    """Return the directory as an absolute Path, made if missing; raise OSError when it cannot be written."""
    path = Path(path).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the directory {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(f"the directory {path} is not writable")
    return path
