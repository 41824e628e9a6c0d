"""One writer for each folder: a lock that ends with the process that holds it, however that process ends."""

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from guided_jax.storage.files import writable_directory

try:
    import fcntl
except ImportError:  # Windows has no flock, and there is no lock there
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
# What a file system without locks answers, such as some network file systems.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def hold(folder: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; the folder is made if missing.

    Raises ValueError when another process holds it, with host, process and time, and OSError when the folder cannot be
    written. Where the file system has no locks, nothing is locked.
    """
    path = writable_directory(folder) / NAME
    file = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # before the lock is given up
        file.close()


def _acquire(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _flock(file)
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
            file.close()
            message = f"{path.parent} is in use{_describe(holder)}; wait for its end, or choose another folder"
            raise ValueError(message) from None
        if _is_same_file(file, path):
            break
        file.close()  # its holder removed it between the opening and the lock
    file.truncate(0)
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": since}, file)
    file.flush()
    return file


def _flock(file: IO[str]) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _describe(holder: str) -> str:
    """Return who holds the lock, as far as its file says so already."""
    try:
        found = json.loads(holder)
        return f" by process {found['process']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return " by another process"
