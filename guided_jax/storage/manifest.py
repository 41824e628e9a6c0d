"""A folder that can be trusted: a list of its files with their digests, written last, and some notes.

What decodes without an error can still be wrong: one flipped bit in a compressed array gives other numbers, silently. So
the bytes are compared with the list before anything reads them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from guided_jax.storage.files import replacing

NAME = "manifest.json"


def write(folder: Path, notes: Any) -> None:
    """Lists every file of the folder, with `notes`, which are anything that JSON can hold."""
    files = {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    body = {"notes": notes, "files": files}
    with replacing(folder / NAME) as file:
        file.write(json.dumps({"sha256": _signature(body), **body}).encode())
        file.flush()
        os.fsync(file.fileno())


def read_notes(folder: Path) -> Any:
    """The notes alone, without a look at the files. ValueError when the manifest is missing or damaged."""
    return _body(folder)["notes"]


def verify(folder: Path) -> Any:
    """The notes, once every file was found as it was written; ValueError names the first that was not."""
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
