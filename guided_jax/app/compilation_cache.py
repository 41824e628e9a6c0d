"""JAX's persistent compilation cache, on by default for the commands: what one command compiled, the next one loads.

The library never switches it on. This module sets JAX's environment variables, so call it before the first import of JAX.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

OPTION = "--compilation-cache"
VARIABLE = "GUIDED_JAX_CACHE"
MAX_BYTES = 2 * 2**30
SUFFIX = "-cache"  # of JAX's files


def take_option(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of --compilation-cache, None without one, and the words that remain.

    Raises ValueError for the option without a value.
    """
    value, rest, remaining = None, [], iter(words)
    for word in remaining:
        name, equals, given = word.partition("=")
        if name != OPTION:
            rest.append(word)
            continue
        value = given if equals else next(remaining, "")
        if not value or value.startswith("--"):
            raise ValueError(f"{OPTION} takes off or a folder")
    return value, rest


def enable(value: str | None = None) -> None:
    """Set JAX's variables for the cache in the folder that `value` names, or switch it off for "off".

    Without a value the variable GUIDED_JAX_CACHE is read in its place; without both, JAX_COMPILATION_CACHE_DIR is left as
    it is, and without all three the folder is `default_folder()`. A folder that cannot be used is one warning, and the
    command goes on without it.
    """
    value = value or os.environ.get(VARIABLE)
    if value == "off":
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    elif value or "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path(value).expanduser() if value else default_folder()
        try:
            prepare(folder)
        except OSError as error:
            reason = error.strerror or error
            print(f"warning: compiling without the cache in {folder}: {reason}", file=sys.stderr)
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder.absolute())
        # Every program: a command compiles dozens of small ones, and the limits in JAX are made for slow remote folders.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def default_folder() -> Path:
    """Return `guided_jax/compiled` in the user's cache folder, $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "guided_jax" / "compiled"


def prepare(folder: Path) -> None:
    """Make the folder for its owner alone, and delete what was not used for longest beyond `MAX_BYTES`.

    Raises OSError for a folder that is not writable, or that others own or may write to: its files are executed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise PermissionError("it belongs to another user")
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others may write to it; chmod go-w makes it yours alone")
    if not os.access(folder, os.W_OK):
        raise PermissionError("it is not writable")
    _trim(folder)


def _trim(folder: Path) -> None:
    """Delete the least recently used files while the rest is larger than `MAX_BYTES`.

    JAX has a limit of its own, which takes the package filelock and reads the whole folder at every write.
    """
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another command trims too
                files += [(entry.path, entry.stat())] if entry.name.endswith(SUFFIX) else []
    total = sum(status.st_size for _, status in files)
    for path, status in sorted(files, key=lambda file: max(file[1].st_atime, file[1].st_mtime)):
        if total <= MAX_BYTES:
            return
        Path(path).unlink(missing_ok=True)
        total -= status.st_size
