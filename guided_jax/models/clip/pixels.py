"""Pictures as CLIP wants them: resized, cut to a square, with the mean and the deviation of its training data."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    high, wide = (max(size, int(size * side / min(h, w))) for side in (h, w))
    resized = jax.image.resize(picture.astype(jnp.float32), (*batch, high, wide, channels), "cubic")
    top, left = (high - size) // 2, (wide - size) // 2
    square = resized[..., top : top + size, left : left + size, :]
    shift, scale = (jnp.asarray(each, jnp.float32).reshape((1,) * len(batch) + (1, 1, -1)) for each in (mean, std))
    return ((square + 1) / 2 - shift) / scale
