"""A list of the files of a folder with their digests, written last, and notes.

A file that decodes without an error can still be wrong: one flipped bit in a compressed array gives other numbers. So the
bytes are compared with their digests before anything reads them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from guided_jax.storage.files import replacing

NAME = "manifest.json"


def write(folder: Path, notes: Any) -> None:
    """Write the digest of every file of the folder, and `notes`, which are anything that JSON can hold."""
    files = {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    body = {"notes": notes, "files": files}
    with replacing(folder / NAME) as file:
        file.write(json.dumps({"sha256": _signature(body), **body}).encode())
        file.flush()
        os.fsync(file.fileno())


def read_notes(folder: Path) -> Any:
    """Return the notes without verifying the files; raise ValueError when the manifest is missing or damaged."""
    return _body(folder)["notes"]


def verify(folder: Path) -> Any:
    """Return the notes after verifying every file; raise ValueError with the name of the first that differs."""
    body = _body(folder)
    for name, digest in body["files"].items():
        try:
            same = _digest(folder / name) == digest
        except OSError as error:
            raise ValueError(f"{folder} is damaged: {name} cannot be read ({error.strerror or error})") from None
        if not same:
            raise ValueError(f"{folder} is damaged: {name} is not what was written")
    return body["notes"]


def _body(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / NAME).read_bytes())
        body = {name: found[name] for name in ("notes", "files")}
        intact = found["sha256"] == _signature(body)
    except OSError as error:
        raise ValueError(f"{folder} is damaged: {NAME} cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"{folder} is damaged: {NAME} is not what was written")
    return body


def _signature(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
