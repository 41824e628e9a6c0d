"""The folder of drawn samples: the unfinished ones while they are drawn, then samples.npz, samples.json and grid.png.

Of several processes the first writes, and the others are told how much there is.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import parallel
from guided_jax.app import preview
from guided_jax.app import run as runs
from guided_jax.app.results import check_free
from guided_jax.app.sample import inverse, samplers
from guided_jax.app.sample.inputs import Inputs
from guided_jax.app.sample.request import Sampling, recorded
from guided_jax.storage import streaming
from guided_jax.storage.files import is_result_of, replacing, writable_directory

RECORD = "samples.json"
EXTRA = ("measured.png", "start.png", "diagnostics.npz", "diagnostics.png")  # beside the samples of some requests


@contextlib.contextmanager
def open_samples(
    out: Path, count: int, run: runs.Run, options: Sampling, steps: dict[str, Any]
) -> Iterator[tuple[streaming.Stream | None, int]]:
    """Yield (stream, rows done) for the samples of a request by networks trained so far; the stream in process 0 alone.

    Unfinished ones by other weights are drawn anew; those of another request raise ValueError without --overwrite.
    """
    begun = {**request(options), "steps": steps}

    def check_unfinished(found: dict[str, Any]) -> None:
        if not options.overwrite and {**found, "steps": steps} != begun:
            raise ValueError(f"{out} holds unfinished samples of another request; give another --out, or --overwrite")

    shape, dtype = run.facts.stored_shape, np.uint8 if run.facts.kind == "pictures" else np.float32
    label = run.facts.stored_label
    target, opened = out / "samples.npz", []
    with contextlib.ExitStack() as held:

        def begin() -> int:
            """Open the stream; return how many rows are done."""
            stream = streaming.open_stream(target, count, shape, begun, dtype, check_unfinished, label)
            opened.append(held.enter_context(stream))
            return opened[0][1]

        done = parallel.from_primary(begin)
        for extra in EXTRA if opened and not done else ():
            (out / extra).unlink(missing_ok=True)
        yield opened[0][0] if opened else None, done


def check_finite(indices: np.ndarray, finite: np.ndarray, options: Sampling) -> None:
    """Raise ValueError for samples that are not finite, naming the first few of them, unless they are allowed."""
    wrong = indices[~finite]
    if len(wrong) and not options.allow_non_finite:
        named = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise ValueError(
            f"{len(wrong)} of {len(indices)} samples are not finite (number {named}); try a lower --scale or more --steps, "
            "or keep them, pictures as black ones, with --allow-non-finite"
        )


def request(options: Sampling) -> dict[str, Any]:
    """Return what determines the samples, for the file beside them."""
    return {name: value for name, value in recorded(options).items() if name != "sweep"}


def destination(options: Sampling) -> Path:
    """Return the output folder, made; ValueError when it holds samples of another request."""
    method = options.method
    scale = "-".join(f"{scale:g}" for scale in options.scale)
    digest = hashlib.sha256(json.dumps(request(options)).encode()).hexdigest()[:6]  # of what the name leaves out
    name = f"{method.guidance}-{scale}-{samplers.step_name(method)}-seed{options.seed}-{digest}"
    out = writable_directory(options.out or options.run / "samples" / name)
    check_free([out / "samples.npz"], out / RECORD, request(options), options.overwrite)
    return out


def is_complete(out: Path, options: Sampling) -> bool:
    """Return whether a folder holds all samples of this request; unfinished ones lie beside in .samples.partial."""

    def complete() -> bool:
        whole = (out / "samples.npz").exists() and not (out / ".samples.partial").exists()
        return whole and is_result_of(out / RECORD, request(options))

    return bool(parallel.from_primary(complete))


def save(
    stream: streaming.Stream,
    out: Path,
    run: runs.Run,
    inputs: Callable[[np.ndarray], Inputs],
    request: dict[str, Any],
) -> None:
    """Write a grid of the first hundred, of what they were drawn with, the request, and last the samples."""
    first = np.array(stream.images[:100])
    preview.save_grid(out / "grid.png", first, run.facts, columns=10)
    given = inputs(np.arange(len(first))).pictures
    for name, shown in {"measured.png": given.y, "start.png": given.image}.items():
        if shown is not None:
            preview.save_grid(out / name, inverse.picture(shown, run.facts), run.facts, columns=10)
    with replacing(out / RECORD) as file:
        file.write(json.dumps(request, indent=2).encode())
    streaming.finish(stream, out / "samples.npz")
