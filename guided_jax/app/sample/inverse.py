"""Inverse problems by name: the true pictures that `--measure` names, and the measurement y = A x_0 + noise of each.

Of a run of latents A is of the latents that the encoder makes of a picture, or, with `--in pixels`, of the picture.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, operators, parallel, sampler
from guided_jax.app import preview
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample import named_pictures
from guided_jax.app.sample.guidances import NONLINEAR, row_of
from guided_jax.app.sample.request import Method
from guided_jax.app.sample.sections import Measurement
from guided_jax.data import pictures
from guided_jax.operators.nonlinear import BLOCK

Shape = tuple[int, int, int]
WHITE = 128  # of a mask, and above


class Measured(NamedTuple):
    """Measurements of pictures, and where they are observed: 1 and 0 in the hole, (n, H, W, 1), or None if all share it.

    truth: the pictures in [-1, 1], where the latents of these are measured instead; else None.
    """

    y: np.ndarray
    observed: np.ndarray | None = None
    truth: np.ndarray | None = None


def check(method: Method, run: runs.Run) -> None:
    """Raise ValueError for a guidance by a measurement without one, or with one that it cannot read."""
    settings, needs, name = method.measurement, row_of(method).needs, method.guidance
    if not settings.measure:
        raise ValueError(f"{name} needs a measurement; name true pictures with --measure held-out or FILE")
    if "repeats" in row_of(method).reads and settings.operator != "mask":
        raise ValueError(f"repaint fills holes only; use pigdm, mmps or dps for --operator {settings.operator}")
    if "linear" in needs and settings.operator in NONLINEAR:
        raise ValueError(f"{name} needs a linear measurement; use daps, mmps or dps for --operator {settings.operator}")
    if "adjoint" in needs and run.latent and method.space == "pixels":
        raise ValueError(f"{name} cannot see pixels through a decoder; leave out --in pixels, or use mmps or daps")
    if "noise" in needs and not settings.noise_std:
        raise ValueError(f"{name} needs a noisy measurement; give --noise-std above 0, such as 0.05")
    if settings.mask and settings.hole != Measurement().hole:
        raise ValueError("--mask stands in the place of --hole; give one of the two")
    make_operator(method, run)


def measures_latents(request: Method, run: runs.Run) -> bool:
    """Return whether the measurement is of latents, and not of pixels."""
    return run.latent and request.space != "pixels"


def paints(request: Method) -> bool:
    """Return whether the picture of --image is painted in where --mask is white, and not measured."""
    return bool(request.image and request.measurement.mask) and "measurement" not in row_of(request).needs


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
    if share := re.fullmatch(r"random:(0?\.\d+)", hole):
        return operators.random_mask(jax.random.key(0), shape, 1 - float(share[1])).forward(jnp.ones(shape))
    rows = re.fullmatch(r"\d+:\d+", hole)
    box = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", f"{hole},0:{width}" if rows else hole)
    top, bottom, left, right = named.get(hole) or (map(int, box.groups()) if box else (0, 0, 0, 0))
    if not (top < bottom <= height and left < right <= width):
        raise ValueError(
            f"--hole is {hole!r}; give {', '.join(named)}, random:0.7, or rows and columns within {height}x{width}"
        )
    return jnp.ones(shape).at[top:bottom, left:right].set(0)


def observed_places(request: Method, run: runs.Run) -> np.ndarray | None:
    """Return the positions in the flattened measurement that --hole leaves; None for what has no hole that all share."""
    settings = request.measurement
    if settings.operator != "mask" or settings.mask:
        return None
    known, latents = observed(settings.hole, run.facts.image_shape), measures_latents(request, run)
    shape = run.model.shape if latents else run.facts.image_shape
    return np.flatnonzero(np.broadcast_to(thin(known, run) if latents else known, shape))


def thin(mask: Any, run: runs.Run) -> Any:
    """Return the mask of latents, (..., h, w, 1): that of a picture at the top left pixel of those of each latent."""
    down, across = (big // small for big, small in zip(run.facts.image_shape[:2], run.model.shape[:2], strict=True))
    return mask[..., ::down, ::across, :1]


def make_operator(request: Method, run: runs.Run) -> operators.Operator:
    """Return A for the pictures of a run, or for its latents; ValueError for one that does not fit them."""
    settings, latents = request.measurement, measures_latents(request, run)
    if latents and len(run.model.shape) != 3:
        raise ValueError(f"the latents of this run, {run.model.shape}, are no pictures; measure pixels by --in pixels")
    height, width, _ = run.model.shape if latents else run.facts.image_shape
    if settings.operator == "mask":
        known = observed(settings.hole, run.facts.image_shape)
        return operators.mask(_with_hole(thin(known, run), f"--hole {settings.hole}") if latents else known)
    if settings.operator == "blur":
        return operators.gaussian_blur(height, width, settings.blur_std)
    if settings.operator == "motion":
        return operators.motion_blur(height, width, settings.blur_length, settings.blur_angle)
    if settings.operator in NONLINEAR:
        return _nonlinear(settings, (height, width), latents)
    if height % settings.factor or width % settings.factor:
        what = "latents" if latents else "pictures"
        raise ValueError(f"--factor is {settings.factor}, which does not divide {what} of {height}x{width}")
    return operators.average_pool(settings.factor)


def _nonlinear(settings: Measurement, size: tuple[int, int], latents: bool) -> operators.Operator:
    """Return the measurement of pictures of a size; ValueError for latents, and for sides that have no blocks of JPEG."""
    if latents:
        raise ValueError(f"--operator {settings.operator} is of pixels; measure them by --in pixels")
    if settings.operator == "clipping":
        return operators.clipping(settings.exposure)
    if size[0] % BLOCK or size[1] % BLOCK:
        raise ValueError(
            f"--operator jpeg goes by 8x8 pixels, and the run draws {size[0]}x{size[1]}; use another operator"
        )
    return operators.jpeg(settings.quality)


def _with_hole(known: Any, option: str) -> Any:
    """Return masks of latents; ValueError for one without a hole."""
    if known.all((-3, -2, -1)).any():
        raise ValueError(f"{option} hides no whole latent; make the hole larger, or paint the pixels by --in pixels")
    return known


def measure(
    operator: operators.Operator, x_0: jax.Array, noise_std: float, key: jax.Array, known: Any = 1.0
) -> jax.Array:
    """y = A x_0 + noise, with noise where it is known."""
    y = operator.forward(x_0)
    return y + noise_std * known * jax.random.normal(key, y.shape)


def make_measure(request: Method, run: runs.Run, seed: int) -> Callable[[np.ndarray], Measured]:
    """Return indices -> `Measured` of their true pictures; the noise depends on the seed and the index alone."""
    settings, shape, latents = request.measurement, run.facts.image_shape, measures_latents(request, run)
    common = make_operator(dataclasses.replace(request, space="pixels"), run)
    known = observed(settings.hole, shape) if settings.operator == "mask" else 1.0
    masks = read_masks(settings.mask, shape) if settings.mask else None
    if latents and masks is not None:
        _with_hole(thin(masks, run), "--mask")
    truth = named_pictures.read(settings.measure, run, "--measure")

    @parallel.jit
    @jax.vmap
    def measured(key: jax.Array, x_0: jax.Array, mask: jax.Array | None) -> jax.Array:
        operator, seen = (common, known) if mask is None else (operators.mask(mask), mask)
        return measure(operator, x_0, settings.noise_std, key, seen)

    def rows(indices: np.ndarray) -> Measured:
        keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 2), indices)
        mask = None if masks is None else masks[indices % len(masks)]
        x_0 = data.scale(truth(indices))
        return Measured(np.asarray(measured(keys, x_0, mask)), mask, x_0 if latents else None)

    return rows


def read_masks(names: tuple[str, ...], shape: Shape) -> np.ndarray:
    """Return (n, H, W, 1), 0 where a mask is white, 1 where it is black; ValueError for masks that do not fit."""
    found = [mask for name in names for mask in named_pictures.read_file(Path(name), 1, "--mask")]
    wrong = next((mask.shape for mask in found if mask.shape[:2] != shape[:2]), None)
    if wrong or not found:
        raise ValueError(
            f"--mask has pictures of {wrong or 'none'}, the run draws {shape}; give masks of that height and width"
        )
    white = np.stack([pictures.with_channels(mask, 1) for mask in found]) >= WHITE
    if not white.any((1, 2, 3)).all():
        raise ValueError(
            f"--mask has a picture without white, {WHITE} or more, and so nothing to paint; white is the hole"
        )
    return 1 - white.astype(np.float32)


def picture(y: np.ndarray, facts: Facts) -> np.ndarray:
    """Return measurements of the size of the samples, as `preview.stored` returns those; grey where nothing is observed."""
    times = facts.image_shape[0] // y.shape[1]
    return preview.stored(y.repeat(times, 1).repeat(times, 2), facts)
