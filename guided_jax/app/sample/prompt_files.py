"""The prompts of a request: those of --prompt, and those of the file that --prompts names.

a.txt     a prompt on each line
a.jsonl   {"prompt": "a cat", "negative": "blurry", "scale": 5, "seed": 3} on each line; only the first has to be there
a.npz     what the text towers would make of prompts: context (n, tokens, width), and of XL pooled (n, width)
"""

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_jax.app import limits
from guided_jax.app.sample.request import Sampling
from guided_jax.pretrained.clip import parse_weights
from guided_jax.pretrained.published import States

FIELDS: dict[str, Any] = {"prompt": str, "negative": str, "scale": (int, float), "seed": int}


class Row(NamedTuple):
    """A prompt, and what of the request it has of its own: the negative prompt, the scale and the seed; None for nothing.

    states: what the text towers would make of it, in the place of the text, which then is its name.
    """

    prompt: str
    negative: str | None = None
    scale: float | None = None
    seed: int | None = None
    states: States | None = None


def read(options: Sampling, widths: tuple[int, ...]) -> list[Row]:
    """Return the prompts of a request, those of its file last.

    widths: of the states of a prompt, and of its projected text where the network reads that. Errors as of `read_file`.
    """
    rows = [Row(text) for text in options.prompt]
    return rows if options.prompts is None else rows + read_file(options.prompts, widths)


def read_file(path: Path, widths: tuple[int, ...]) -> list[Row]:
    """Return the prompts of a file; lines that are empty do not count. widths: as of `read`.

    ValueError for a file that cannot be read, is none of prompts, or holds none.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix == ".npz" and not widths:
        raise ValueError(f"{path} has states of prompts, and this run reads words; write a prompt on each line")
    if path.suffix == ".npz":
        found = _of_states(path, body, widths)
    else:
        lines = [(i, line.strip()) for i, line in enumerate(_decode(path, body).split("\n"), 1)]
        read_line = _of_object if path.suffix == ".jsonl" else lambda place, line: Row(line)
        found = [read_line(f"{path}, line {i}", line) for i, line in lines if line]
    if not found:
        raise ValueError(f"{path} holds no prompt; write one on each line")
    return found


def _decode(path: Path, body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file of prompts, one on each line") from None


def _of_object(place: str, line: str) -> Row:
    """Return the row of a line of JSON."""
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict) or "prompt" not in found:
        raise ValueError(f'{place} is no prompt; write an object such as {{"prompt": "a cat", "seed": 3}}')
    if unknown := [name for name in found if name not in FIELDS]:
        raise ValueError(f"{place} has {unknown[0]!r}, which no prompt has; there is {', '.join(FIELDS)}")
    for name, value in found.items():
        if value is not None and (not isinstance(value, FIELDS[name]) or isinstance(value, bool)):
            raise ValueError(f"{place} has the {name} {value!r}; give a {'text' if FIELDS[name] is str else 'number'}")
    row = Row(**found)
    allowed = limits.RANGES["seed"]
    if row.seed is not None and not allowed.holds(row.seed):
        raise ValueError(f"{place} has the seed {row.seed}; give {allowed.words()}")
    if row.scale is not None and not abs(row.scale) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{place} has the scale {row.scale}; give a finite number")
    return row


def _of_states(path: Path, body: bytes, widths: tuple[int, ...]) -> list[Row]:
    """Return the rows of an npz file of states; their names tell one file from another."""
    names = ("context", "pooled")[: len(widths)]
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            found = {name: np.asarray(file[name], np.float32) for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} holds no states of prompts ({error}); give the arrays {' and '.join(names)}"
        ) from None
    context, count = found["context"], len(found["context"]) if found["context"].ndim else 0
    wanted = [(count, context.shape[1] if context.ndim == 3 else "tokens", widths[0]), (count, *widths[1:])]
    for (name, array), shape in zip(found.items(), wanted, strict=False):
        if array.shape != shape:
            raise ValueError(f"{path} has {name} of shape {array.shape}, and the run reads {_spell(shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{path} has a {name} that is not finite; give other states")
    digest = hashlib.sha256(body).hexdigest()[:8]
    columns: list[Any] = [found.get(name, [None] * count) for name in ("context", "pooled")]
    return [
        Row(f"{path.name} {i} ({digest})", states=States(*each)) for i, each in enumerate(zip(*columns, strict=True))
    ]


def without_weights(prompt: str) -> str:
    """(a red:1.3) cat -> a red cat."""
    return "".join(text for text, _ in parse_weights(prompt))


def is_name_of_states(prompt: str) -> bool:
    """Return whether this is no prompt but the name of states of a file.

    >>> is_name_of_states("states.npz 0 (0123abcd)"), is_name_of_states("a cat (1234)")
    (True, False)
    """
    return re.fullmatch(r".*\.npz \d+ \([0-9a-f]{8}\)", prompt) is not None


def _spell(shape: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
