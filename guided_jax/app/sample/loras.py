"""The LoRA files of a request to a Stable Diffusion: merged into the parameters of the run when these are loaded."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

from guided_jax.app import run as runs
from guided_jax.app.sample import criteria
from guided_jax.app.sample.request import Sampling
from guided_jax.pretrained import weight_files
from guided_jax.pretrained.stable_diffusion import lora


def merge_loras(run: runs.Run, words: tuple[str, ...]) -> runs.Run:
    """Return the run whose parameters are those with the files of --lora merged in, in their order.

    words: FILE or FILE:MULTIPLIER, each. ValueError for a run that is no Stable Diffusion, and for a file that is not there
    or no file of weights; when the parameters are loaded, for one that does not fit them.
    """
    if not words:
        return run
    merge = run.merge_lora
    if merge is None:
        raise ValueError("--lora is for runs of a Stable Diffusion; leave it out")
    updates = [(path, lora.read_file(path), multiplier) for path, multiplier in map(parse, words)]

    def params(part: str, *given: Any, **named: Any) -> Any:
        found = run.params(part, *given, **named)
        if part != "diffusion":
            return found
        for path, state_dict, multiplier in updates:
            try:
                found = merge(found, state_dict, multiplier)
            except ValueError as error:
                raise ValueError(f"--lora {path}: {error}") from None
        return found

    return run._replace(params=params)


def parse(word: str) -> tuple[Path, float]:
    """Return (file, multiplier) of a word of --lora; a whole word that is a file has the multiplier 1.

    >>> parse("style.safetensors:0.8")
    (PosixPath('style.safetensors'), 0.8)
    >>> parse("style.safetensors")
    (PosixPath('style.safetensors'), 1.0)
    """
    name, colon, number = word.rpartition(":")
    if not colon or Path(word).is_file():
        return Path(word), 1.0
    try:
        multiplier = float(number)
    except ValueError:
        multiplier = math.nan
    if not name or not math.isfinite(multiplier):
        raise ValueError(
            f"--lora is {word!r}; give a file, or a file and a finite number, such as {name or 'FILE'}:0.8"
        )
    return Path(name), multiplier


def with_digests(options: Sampling) -> Sampling:
    """Return the request with digests of --lora, --criterion and --control: another file of the same name is told by it."""
    found, control = [], options.method.control
    files = [path for path, _ in map(parse, options.lora)] + criteria.files_of(options.method)
    for path in files if control is None else [*files, weight_files.find_weights(control)]:
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest()[:16])
    return dataclasses.replace(options, digests=tuple(found))
