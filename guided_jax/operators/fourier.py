"""Measurements that are diagonal in frequency: convolutions of periodic pictures, and some of the frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from guided_jax.operators.linear import Function, Operator, from_spectrum, observed_only

PLANE = (0, 1)


def convolution(kernel: Float[Array, "kh kw"], height: int, width: int) -> Operator:
    """A x = kernel * x for each channel of x, which goes on periodically beyond its borders.

    kernel: of any size, its centre at (kh // 2, kw // 2); it may be traced.
    height, width: of x (height, width, channels).
    """
    rows, columns = (np.arange(size) - size // 2 for size in kernel.shape)
    around = jnp.zeros((height, width)).at[rows[:, None] % height, columns[None, :] % width].add(kernel)
    response = jnp.fft.rfft2(around)[..., None]

    def multiply(x: Array, factors: Array) -> Array:
        return jnp.fft.irfft2(jnp.fft.rfft2(x, axes=PLANE) * factors, s=(height, width), axes=PLANE)

    power = observed_only(jnp.square(jnp.abs(response)))
    return from_spectrum(
        lambda x: multiply(x, response),
        lambda y: multiply(y, jnp.conj(response)),
        lambda function, y: multiply(y, function(power)),
    )


def motion_blur(height: int, width: int, length: ArrayLike, angle: ArrayLike = 0.0) -> Operator:
    """A x = the mean of x along a straight line: a camera that moved; periodic at the borders.

    height, width: of x (height, width, channels).
    length: of the line in pixels, a number or traced value; 0 for no blur.
    angle: in degrees, 0 for a horizontal line, 90 for a vertical one, counterclockwise.
    """
    row, column = (jnp.arange(size, dtype=jnp.float32) - size // 2 for size in (height, width))
    across, down = jnp.cos(jnp.deg2rad(angle)), -jnp.sin(jnp.deg2rad(angle))
    along = column[None, :] * across + row[:, None] * down
    half = jnp.asarray(length) / 2
    nearest = jnp.clip(along, -half, half)
    off = jnp.hypot(column[None, :] - nearest * across, row[:, None] - nearest * down)  # of the line
    weights = jnp.maximum(1 - off, 0.0)
    return convolution(weights / jnp.sum(weights), height, width)


def fourier(shape: tuple[int, int, int], observed: Array) -> Operator:
    """A x = some frequencies of each channel of x, as real and imaginary parts (height, width // 2 + 1, channels, 2).

    Of the frequencies of a real picture, those which say the same as another one are left out (0), and those which stand
    for two have the weight sqrt(2): with all of them observed, A is orthogonal.
    shape: of x, (height, width, channels).
    observed: 1 (or True) where a frequency is measured, 0 elsewhere, (height, width // 2 + 1) in the order of
        `jnp.fft.rfft2`, or broadcasting to it.
    """
    plane = (shape[0], shape[1] // 2 + 1)
    weights = jnp.broadcast_to(jnp.asarray(observed, jnp.float32), plane)[..., None, None] * _parts(*shape[:2])

    def forward(x: Float[Array, "h w c"]) -> Float[Array, "h f c 2"]:
        frequencies = jnp.fft.rfft2(x, axes=PLANE, norm="ortho")
        return weights * jnp.stack([frequencies.real, frequencies.imag], -1)

    def adjoint(y: Float[Array, "h f c 2"]) -> Float[Array, "h w c"]:
        (x,) = jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, y.dtype))(y)
        return x

    values = jnp.square(jnp.broadcast_to(jnp.asarray(observed, jnp.float32), plane))[..., None, None]
    values = jnp.where(_parts(*shape[:2]) > 0, values, 0.0)

    def spectral(function: Function, y: Array) -> Array:
        return function(values) * y

    return from_spectrum(forward, adjoint, spectral)


def _parts(height: int, width: int) -> np.ndarray:
    """The weights of the real and the imaginary parts, (height, width // 2 + 1, 1, 2), that make all rows of A orthonormal.

    A frequency that is its own conjugate has no imaginary part, and the weight 1. In the columns that are their own
    conjugates, each other frequency stands twice: its second place gets 0.
    """
    row, column = np.arange(height)[:, None], np.arange(width // 2 + 1)[None, :]
    twin = (-row) % height
    alone = (2 * column) % width == 0
    weight = np.where(alone & (row == twin), 1.0, np.where(alone & (row > twin), 0.0, np.sqrt(2)))
    imaginary = np.where(alone & (row == twin), 0.0, weight)
    return np.stack([weight, imaginary], -1)[:, :, None].astype(np.float32)
