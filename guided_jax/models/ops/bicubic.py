"""Bicubic interpolation as torch does it, by a small matrix for each axis.

    out_i = sum_j k((j - c_i) / s) x_j,   c_i = (i + 1/2) size / number - 1/2
    k(u) = (a + 2) |u|^3 - (a + 3) u^2 + 1 for |u| <= 1,   a (|u|^3 - 5 u^2 + 8 |u| - 4) for 1 < |u| < 2

With antialiasing a = -1/2, s = max(size / number, 1), and weights beyond the ends are dropped and the others divided by
their sum; without it a = -3/4, s = 1, and beyond the ends the last value counts. Source: Keys, Cubic convolution
interpolation for digital image processing, 1981.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize(
    x: Float[Array | np.ndarray, "*batch h w c"], size: tuple[int, int], antialias: bool, offset: float = 0.0
) -> Float[Array, "*batch h2 w2 c"]:
    """Return x at `size` (height, width), float32. antialias, offset: as of `interpolation`."""
    rows, columns = (interpolation(own, new, antialias, offset) for own, new in zip(x.shape[-3:-1], size, strict=True))
    return jnp.einsum("ih,jw,...hwc->...ijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def interpolation(size: int, number: int, antialias: bool, offset: float = 0.0) -> Float[np.ndarray, "{number} {size}"]:
    """Return the weights of `size` values in each of `number` interpolated ones.

    antialias: smooth before shrinking. offset: added to `number` in the positions c_i.

    >>> interpolation(4, 2, antialias=True).round(3)
    array([[ 0.459,  0.459,  0.12 , -0.037],
           [-0.037,  0.12 ,  0.459,  0.459]], dtype=float32)
    """
    step = size / (number + offset)
    places = (np.arange(number)[:, None] + 0.5) * step - 0.5
    if antialias:
        weights = keys((np.arange(size) - places) / max(step, 1.0), -0.5)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    taps = np.floor(places).astype(int) + np.arange(-1, 3)
    weights = np.zeros((number, size))
    np.add.at(weights, (np.arange(number)[:, None], np.clip(taps, 0, size - 1)), keys(taps - places, -0.75))
    return weights.astype(np.float32)


def keys(u: Float[np.ndarray, "..."], a: float) -> Float[np.ndarray, "..."]:
    """k(u) of the formula above, 0 from |u| = 2 on."""
    u = np.abs(u)
    near = ((a + 2) * u - (a + 3)) * u**2 + 1
    far = a * (((u - 5) * u + 8) * u - 4)
    return np.where(u <= 1, near, np.where(u < 2, far, 0))
