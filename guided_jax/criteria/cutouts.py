"""Criteria of random square crops: the mean over several, drawn anew at each level.

A CLIP reads small squares. Averaged over crops of several sizes, its gradient is smoother, and details count too. The idea
and `power` are Katherine Crowson's, of her CLIP-guided diffusion (2021), which has no paper.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_key
from guided_jax.schedule import NoiseLevel, fold_in
from guided_jax.strength import LogProb


class Box(NamedTuple):
    """A square of a picture, in pixels, from its upper left corner; not rounded."""

    top: Float[Array, ""]
    left: Float[Array, ""]
    side: Float[Array, ""]


def draw_box(key: Any, height: int, width: int, smallest: ArrayLike = 0.5, power: ArrayLike = 1.0) -> Box:
    """Draw a square: its side is (smallest + (1 - smallest) n^power) min(height, width), n uniform; its place is uniform.

    key: a JAX key.
    height, width: of the picture.
    smallest: the least side as a share of the longest one; Crowson's is the input size of the CLIP, which leaves no choice
        in a picture of that size or less.
    power: above 1 for more small crops.
    Returns Box, within the picture.
    """
    check_key(key)
    n, down, right = jax.random.uniform(key, (3,))
    side = min(height, width) * (smallest + (1 - smallest) * n**power)
    return Box(down * (height - side), right * (width - side), side)


def crop(picture: Float[Array, "h w c"], box: Box, size: int) -> Float[Array, "{size} {size} c"]:
    """Resize a square of the picture to size x size: bicubic, antialiased where it shrinks; differentiable.

    picture: of any numbers of rows, columns and channels.
    box: the square; may be traced: one program for all boxes.
    size: of the result.

    >>> picture = jnp.arange(16.0).reshape(4, 4, 1)
    >>> whole = gj.criteria.crop(picture, gj.criteria.Box(0.0, 0.0, 4.0), 4)
    >>> bool(jnp.allclose(whole, picture, atol=1e-5))
    True
    """
    scale = jnp.broadcast_to(size / jnp.asarray(box.side, picture.dtype), (2,))
    corner = jnp.stack([jnp.asarray(each, picture.dtype) for each in (box.top, box.left)])
    shape = (size, size, picture.shape[-1])
    return jax.image.scale_and_translate(picture, shape, (0, 1), scale, -corner * scale, "cubic", antialias=True)


def over_cutouts(
    criterion: LogProb,
    key: Any,
    count: int,
    size: int,
    smallest: ArrayLike = 0.5,
    power: ArrayLike = 1.0,
) -> LogProb:
    """The mean of criterion(crop, level) over `count` random crops of x_0.

    criterion: (picture, level) -> scalar, of pictures (size, size, channels), such as `spherical`.
    key: a JAX key, of this example. Each level has its own crops, by `schedule.fold_in`: a criterion is a function of x and
        the level alone, and a sampler that comes back to a level, as repetitions and second-order methods do, sees the same
        crops there.
    count: of the crops, which are evaluated at once: memory and time of the CLIP grow with it.
    size: of the crops, the input size of the CLIP.
    smallest, power: as for `draw_box`.
    Returns (x_0, level) -> scalar, of pictures (height, width, channels).
    Raises ValueError for a count below 1.
    """
    check_key(key)
    if count < 1:
        raise ValueError(f"count is {count}; give 1 crop or more")

    def mean(x_0: Float[Array, "h w c"], level: NoiseLevel) -> Float[Array, ""]:
        height, width, _ = x_0.shape

        def one(key: Array) -> Array:
            return criterion(crop(x_0, draw_box(key, height, width, smallest, power), size), level)

        return jnp.mean(jax.vmap(one)(jax.random.split(fold_in(key, level), count)))

    return mean
