"""Measurements that are not linear: `forward` with its derivative, and neither an adjoint nor an inverse.

`reverse.daps`, `reverse.dps`, `guidance.universal` with `guidance.likelihood`, and `guidance.mmps`, which takes the
derivative at x_0 for A, guide by them.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from guided_jax.numerics import root
from guided_jax.operators.linear import Operator

BLOCK = 8
# Table K.1 of ITU-T T.81, the JPEG standard: luminance.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def nonlinear(forward: Callable[[Array], Array]) -> Operator:
    """Return the measurement y = forward(x), whose adjoint and solve raise ValueError.

    forward: x -> y, with a derivative.
    """

    def missing(*_: Any) -> NoReturn:
        raise ValueError("a nonlinear measurement has no adjoint and no inverse; use reverse.daps, or guidance.mmps")

    return Operator(forward, missing, missing)


def clipping(gain: ArrayLike = 2.0, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> Operator:
    """y = clip(gain x, low, high): an exposure that was too long, whose bright and dark parts are lost.

    gain, low, high: numbers or traced values.

    >>> gj.operators.clipping(2.0).forward(jnp.array([0.25, -0.75])).tolist()
    [0.5, -1.0]
    """
    return nonlinear(lambda x: jnp.clip(gain * x, low, high))


def jpeg(quality: ArrayLike = 50.0) -> Operator:
    """y = the picture that JPEG keeps of x, each channel by itself: cosines of 8 x 8 pixels, rounded to steps.

    As of a grey picture: neither are colours converted, nor is y rounded or clipped to pixels. The derivative is that of
    no rounding, so that the gradient of a likelihood leads each cosine to the step that y has, and is 0 there.
    quality: 1 to 100 as of libjpeg, a number or traced value.
    Raises ValueError, when called, for an x (height, width, channels) in [-1, 1] whose sides are no multiples of 8.
    """
    factor = jnp.where(jnp.asarray(quality) < 50, 5000 / jnp.asarray(quality), 200 - 2 * jnp.asarray(quality))
    steps = jnp.clip(jnp.floor((LUMINANCE * factor + 50) / 100), 1, 255)[None, :, None, :, None]
    cosines = _cosines()

    def forward(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        height, width, channels = x.shape
        if height % BLOCK or width % BLOCK:
            raise ValueError(f"a picture of {height}x{width} has no blocks of 8x8 pixels; give multiples of 8")
        blocks = (127.5 * x - 0.5).reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
        found = jnp.einsum("ui,aibjc,vj->aubvc", cosines, blocks, cosines) / steps
        kept = steps * (found + jax.lax.stop_gradient(jnp.round(found) - found))
        pixels = jnp.einsum("ui,aubvc,vj->aibjc", cosines, kept, cosines)
        return (pixels.reshape(x.shape) + 0.5) / 127.5

    return nonlinear(forward)


def phase_retrieval(oversampling: float = 2.0) -> Operator:
    """y = |F (x + 1)/2|, F the orthonormal Fourier transform of the picture with zeros around it ([DPS]).

    A picture, the same turned by 180 degrees and, with room for it, the same in another place have one y.
    oversampling: the side of the transform over that of x (height, width, channels), at least 1.
    Raises ValueError for an oversampling below 1.
    """
    if oversampling < 1:
        raise ValueError(f"oversampling is {oversampling}; give a number of at least 1, such as 2")

    def forward(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
        size = tuple(round(oversampling * side) for side in x.shape[:2])
        found = jnp.fft.fft2((x + 1) / 2, s=size, axes=(0, 1), norm="ortho")
        return root(jnp.square(found.real) + jnp.square(found.imag))

    return nonlinear(forward)


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of 8 numbers, (frequency, place)."""
    frequency, place = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    waves = np.cos(np.pi * frequency * (2 * place + 1) / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    return np.where(frequency == 0, np.sqrt(1 / BLOCK), waves).astype(np.float32)
