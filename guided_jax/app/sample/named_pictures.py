"""The pictures that an option names: held-out data of the run or files, in turn over the samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample.request import HELD_OUT
from guided_jax.data import arrays, pictures
from guided_jax.storage import images

Rows = Callable[[np.ndarray], np.ndarray]  # indices of samples -> a row for each


def read(names: tuple[str, ...], run: runs.Run, option: str) -> Rows:
    """Return indices -> pictures; ValueError, which names the option, for pictures of another shape than the run draws."""
    if names == (HELD_OUT,):
        source = runs.source(run, held_out=True)
        return lambda indices: source.read(indices % len(source))["image"]
    found = [picture for name in names for picture in _read(Path(name), run.facts, option)]
    wrong = next((picture.shape for picture in found if picture.shape != run.facts.image_shape), None)
    if wrong or not found:
        raise ValueError(
            f"{option} has pictures of {wrong or 'none'}, the run draws {run.facts.image_shape}; resize them"
        )
    stacked = np.stack(found)
    return lambda indices: stacked[indices % len(stacked)]


def _read(path: Path, facts: Facts, option: str) -> list[np.ndarray]:
    """Return what a file holds: pictures, or the arrays or signals that the run is of."""
    if facts.kind == "pictures":
        return read_file(path, facts.image_shape[-1], option)
    found, _ = arrays.read_npz(path, signals=facts.kind == "signals")
    assert found is not None
    return list(found)


def read_file(path: Path, channels: int, option: str) -> list[np.ndarray]:
    """Return the uint8 pictures of an npz file as they are, or of one picture file with so many channels."""
    if path.suffix == ".npz":
        return list(images.load_npz(path)[0])
    try:
        return [pictures.with_channels(pictures.decode(path.read_bytes(), str(path)), channels)]
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    except pictures.Unreadable:
        raise ValueError(f"{option} {path} is neither an npz file nor a picture that can be read") from None
