"""Inverse problems by name: the true pictures that `--measure` names, and the measurement y = A x_0 + noise of each."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, operators, sampler
from guided_jax.app import run as runs
from guided_jax.app.sample import named_pictures
from guided_jax.app.sample.named_pictures import Rows
from guided_jax.app.sample.request import Measurement
from guided_jax.storage import images

Shape = tuple[int, int, int]


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
    box = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", hole)
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
    truth = named_pictures.read(settings.measure, run, "--measure")

    @jax.jit
    @jax.vmap
    def measure(key: jax.Array, x_0: jax.Array) -> jax.Array:
        y = operator.forward(x_0)
        return y + settings.noise_std * mask * jax.random.normal(key, y.shape)

    def rows(indices: np.ndarray) -> np.ndarray:
        keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 2), indices)
        return np.asarray(measure(keys, data.scale(truth(indices))))

    return rows


def picture(y: np.ndarray, shape: Shape) -> np.ndarray:
    """Return measurements as pictures of the size of the samples: uint8, grey where nothing is observed."""
    times = shape[0] // y.shape[1]
    return images.to_uint8(y).repeat(times, 1).repeat(times, 2)
