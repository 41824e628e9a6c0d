"""Pictures as CLIP wants them: resized, cut to a square, with the mean and the deviation of its training data."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from guided_jax.models.ops import bicubic

# Of the three channels of pictures in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(
    picture: Float[Array, "*batch h w 3"], size: int = 224, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Float[Array, "*batch {size} {size} 3"]:
    """((picture + 1) / 2 - mean) / std, its shorter side resized to `size` and the middle square cut out; differentiable.

    picture: in [-1, 1]. Bicubic, with antialiasing where the picture shrinks, as Pillow resizes pictures of float numbers;
    nothing is clipped or rounded. mean, std: of each channel.

    >>> preprocess(jnp.zeros((2, 64, 96, 3))).shape
    (2, 224, 224, 3)
    """
    *batch, h, w, channels = picture.shape
    resized = jax.image.resize(picture.astype(jnp.float32), (*batch, *_sides(h, w, size), channels), "cubic")
    return _normalize((_square(resized, size) + 1) / 2, mean, std)


def preprocess_uint8(
    picture: UInt8[Array, "*batch h w 3"], size: int = 224, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Float[Array, "*batch {size} {size} 3"]:
    """(picture / 255 - mean) / std, resized and cut as `preprocess` does, and rounded to whole numbers as Pillow rounds.

    picture: uint8. Pillow, which published numbers of CLIP go through, resizes the rows of a picture of bytes, rounds them
    to 0 .. 255, and then the columns: next to sharp edges the result is clipped. mean, std: of each channel.

    >>> preprocess_uint8(jnp.zeros((64, 96, 3), jnp.uint8), size=32).shape
    (32, 32, 3)
    """
    h, w = picture.shape[-3:-1]
    high, wide = _sides(h, w, size)
    rows = _round(bicubic.resize(picture.astype(jnp.float32), (h, wide), antialias=True))
    resized = _round(bicubic.resize(rows, (high, wide), antialias=True))
    return _normalize(_square(resized, size) / 255, mean, std)


def _sides(h: int, w: int, size: int) -> tuple[int, int]:
    """Return (height, width) at which the shorter side is `size`."""
    high, wide = (max(size, int(size * side / min(h, w))) for side in (h, w))
    return high, wide


def _square(x: Float[Array, "*batch h w c"], size: int) -> Float[Array, "*batch {size} {size} c"]:
    """Return the square in the middle."""
    top, left = ((side - size) // 2 for side in x.shape[-3:-1])
    return x[..., top : top + size, left : left + size, :]


def _normalize(x: Float[Array, "*batch h w c"], mean: Sequence[float], std: Sequence[float]) -> Array:
    shift, scale = (jnp.asarray(each, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,)) for each in (mean, std))
    return (x - shift) / scale


def _round(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the nearest whole numbers from 0 to 255, halves upwards."""
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)
