"""Inverse problems by name: the true pictures that `--measure` names, and the measurement y = A x_0 + noise of each."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, operators, sampler
from guided_jax.app import preview
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample.request import HELD_OUT, Measurement
from guided_jax.data import arrays, pictures
from guided_jax.storage import images

Shape = tuple[int, int, int]
Rows = Callable[[np.ndarray], np.ndarray]  # indices of samples -> a row for each


def observed(hole: str, shape: Shape) -> jax.Array:
    """Return 1 where a picture is observed, 0 in the hole; ValueError for a hole that is not within the picture."""
    height, width, _ = shape
    named = {
        "left": (0, height, 0, width // 2),
        "right": (0, height, width - width // 2, width),
        "top": (0, height // 2, 0, width),
        "bottom": (height - height // 2, height, 0, width),
        "centre": (height // 4, height - height // 4, width // 4, width - width // 4),
    }
    if width == 1:  # a signal, which is shown from left to right
        named |= {"left": named["top"], "right": named["bottom"]}
    rows = re.fullmatch(r"\d+:\d+", hole)
    box = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", f"{hole},0:{width}" if rows else hole)
    top, bottom, left, right = named.get(hole) or (map(int, box.groups()) if box else (0, 0, 0, 0))
    if not (top < bottom <= height and left < right <= width):
        raise ValueError(f"--hole is {hole!r}; give {', '.join(named)}, or rows and columns within {height}x{width}")
    return jnp.ones(shape).at[top:bottom, left:right].set(0)


def make_operator(settings: Measurement, shape: Shape) -> operators.Operator:
    """Return A for pictures of that shape; ValueError for one that does not fit them."""
    height, width, _ = shape
    if settings.operator == "mask":
        return operators.mask(observed(settings.hole, shape))
    if settings.operator == "blur":
        return operators.gaussian_blur(height, width, settings.blur_std)
    if height % settings.factor or width % settings.factor:
        raise ValueError(f"--factor is {settings.factor}, which does not divide pictures of {height}x{width}")
    return operators.average_pool(settings.factor)


def make_measure(settings: Measurement, run: runs.Run, seed: int) -> Rows:
    """Return indices -> y = A x_0 + noise of their true pictures; the noise depends on the seed and the index alone."""
    shape = run.facts.image_shape
    operator = make_operator(settings, shape)
    mask = observed(settings.hole, shape) if settings.operator == "mask" else 1.0
    truth = _true_pictures(settings.measure, run)

    @jax.jit
    @jax.vmap
    def measure(key: jax.Array, x_0: jax.Array) -> jax.Array:
        y = operator.forward(x_0)
        return y + settings.noise_std * mask * jax.random.normal(key, y.shape)

    def rows(indices: np.ndarray) -> np.ndarray:
        keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 2), indices)
        return np.asarray(measure(keys, data.scale(truth(indices))))

    return rows


def _true_pictures(names: tuple[str, ...], run: runs.Run) -> Rows:
    """Return indices -> the true pictures, uint8, in turn; ValueError for pictures of another shape than the run draws."""
    if names == (HELD_OUT,):
        source = runs.source(run, held_out=True)
        return lambda indices: source.read(indices % len(source))["image"]
    found = [picture for name in names for picture in _read(Path(name), run.facts)]
    wrong = next((picture.shape for picture in found if picture.shape != run.facts.image_shape), None)
    if wrong or not found:
        raise ValueError(f"--measure has pictures of {wrong or 'none'}, the run draws {run.facts.image_shape}")
    stacked = np.stack(found)
    return lambda indices: stacked[indices % len(stacked)]


def _read(path: Path, known: Facts) -> list[np.ndarray]:
    if known.kind != "pictures":
        found, _ = arrays.read_npz(path, signals=known.kind == "signals")
        assert found is not None
        return list(found)
    if path.suffix == ".npz":
        return list(images.load_npz(path)[0])
    try:
        return [pictures.with_channels(pictures.decode(path.read_bytes(), str(path)), known.image_shape[-1])]
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    except pictures.Unreadable:
        raise ValueError(f"--measure {path} is neither an npz file nor a picture that can be read") from None


def picture(y: np.ndarray, known: Facts) -> np.ndarray:
    """Return measurements of the size of the samples, as `preview.stored` returns those; grey where nothing is observed."""
    times = known.image_shape[0] // y.shape[1]
    return preview.stored(y.repeat(times, 1).repeat(times, 2), known)
