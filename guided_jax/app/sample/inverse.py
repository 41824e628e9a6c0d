"""What `sample.py --measure` looks at: true pictures, and the linear measurement y = A x_0 + noise made of each."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import operators, sampler
from guided_jax.app import run as runs
from guided_jax.data import pictures
from guided_jax.storage import images

HELD_OUT = "held-out"
# The knobs of each operator.
OPERATORS = {"mask": ("hole",), "super-resolution": ("factor",), "blur": ("blur_std",)}
Shape = tuple[int, int, int]
Look = Callable[[np.ndarray], np.ndarray]  # indices of samples -> what is seen of their true pictures


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is known of the pictures: pigdm, dps and repaint draw what else they may hold."""

    measure: tuple[str, ...] = ()
    """The true pictures, in turn over the samples: held-out (the run's own data), an npz file as samples.npz, or
    picture files."""
    operator: Literal["mask", "super-resolution", "blur"] = "mask"
    """What is seen of them: all but --hole, means over --factor pixels, or a blur of --blur-std."""
    hole: str = "right"
    """mask: what is not seen: the left, right, top or bottom half, the centre, or rows and columns such as 2:6,0:4."""
    factor: int = 2
    """super-resolution: how many pixels a side make one."""
    blur_std: float = 1.0
    """blur: its standard deviation in pixels."""
    noise_std: float = 0.0
    """Of the noise in the measurement, for pictures in [-1, 1]; it is added here, and pigdm is told of it."""
    data_std: float = 0.5
    """pigdm: the standard deviation of the data, for pictures in [-1, 1]."""
    repeats: int = 10
    """repaint: steps made for each level."""


def observed(hole: str, shape: Shape) -> jax.Array:
    """1 where a picture is seen, 0 in the hole; ValueError for a hole that is not within the picture."""
    height, width, _ = shape
    named = {
        "left": (0, height, 0, width // 2),
        "right": (0, height, width - width // 2, width),
        "top": (0, height // 2, 0, width),
        "bottom": (height - height // 2, height, 0, width),
        "centre": (height // 4, height - height // 4, width // 4, width - width // 4),
    }
    box = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", hole)
    top, bottom, left, right = named.get(hole) or (map(int, box.groups()) if box else (0, 0, 0, 0))
    if not (top < bottom <= height and left < right <= width):
        raise ValueError(f"--hole is {hole!r}; give {', '.join(named)}, or rows and columns within {height}x{width}")
    return jnp.ones(shape).at[top:bottom, left:right].set(0)


def operator_of(settings: Measurement, shape: Shape) -> operators.Operator:
    """A, for pictures of that shape; ValueError for one that does not fit them."""
    height, width, _ = shape
    if settings.operator == "mask":
        return operators.mask(observed(settings.hole, shape))
    if settings.operator == "blur":
        return operators.gaussian_blur(height, width, settings.blur_std)
    if height % settings.factor or width % settings.factor:
        raise ValueError(f"--factor is {settings.factor}, which does not divide pictures of {height}x{width}")
    return operators.average_pool(settings.factor)


def looking(settings: Measurement, run: runs.Run, seed: int) -> Look:
    """indices -> y = A x_0 + noise of their true pictures; the noise depends on the seed and the index alone."""
    shape = run.facts.image_shape
    see = operator_of(settings, shape)
    seen = observed(settings.hole, shape) if settings.operator == "mask" else 1.0
    truth = _truth(settings.measure, run)

    @jax.jit
    @jax.vmap
    def measure(key, x_0):
        y = see.forward(x_0)
        return y + settings.noise_std * seen * jax.random.normal(key, y.shape)

    def look(indices: np.ndarray) -> np.ndarray:
        keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 2), indices)
        return np.asarray(measure(keys, images.from_uint8(truth(indices))))

    return look


def _truth(names: tuple[str, ...], run: runs.Run) -> Look:
    """indices -> the true pictures, uint8, in turn; ValueError for pictures that the run's network cannot draw."""
    if names == (HELD_OUT,):
        source = run.experiment.data.make(held_out=True)
        return lambda indices: source.read(indices % len(source))["image"]
    found = [picture for name in names for picture in _read(Path(name), run.facts.image_shape[-1])]
    wrong = next((picture.shape for picture in found if picture.shape != run.facts.image_shape), None)
    if wrong or not found:
        raise ValueError(f"--measure has pictures of {wrong or 'none'}, the run draws {run.facts.image_shape}")
    stacked = np.stack(found)
    return lambda indices: stacked[indices % len(stacked)]


def _read(path: Path, channels: int) -> list[np.ndarray]:
    if path.suffix == ".npz":
        return list(images.load_npz(path)[0])
    try:
        return [pictures.with_channels(pictures.decode(path.read_bytes(), str(path)), channels)]
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    except pictures.Unreadable:
        raise ValueError(f"--measure {path} is neither an npz file nor a picture that can be read") from None


def picture(y: np.ndarray, shape: Shape) -> np.ndarray:
    """What was seen, as pictures of the size of those that are drawn: uint8, grey where nothing was."""
    times = shape[0] // y.shape[1]
    return images.to_uint8(y).repeat(times, 1).repeat(times, 2)
