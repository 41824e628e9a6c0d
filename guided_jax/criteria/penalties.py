"""Criteria that keep other criteria from making pictures that no data have: added to them with a weight."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.numerics import root
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb


def smooth() -> LogProb:
    """-sum |x_(i+1,j) - x_ij| + |x_(i,j+1) - x_ij|: the total variation of a picture, anisotropic, with the sign changed.

    Returns (x, level) -> scalar, of pictures (height, width, channels).

    >>> level = gj.schedule.at(gj.schedule.cosine(10), 0)
    >>> float(gj.criteria.smooth()(jnp.array([[[0.0], [1.0]], [[0.0], [1.0]]]), level))
    -2.0
    """

    def log_prob(x: Float[Array, "h w c"], level: NoiseLevel) -> Float[Array, ""]:
        # JAX has 1 for the derivative of |x| at 0; that of the root is 0, so that even areas stay even.
        down, right = (root(jnp.square(moved - kept)) for moved, kept in ((x[1:], x[:-1]), (x[:, 1:], x[:, :-1])))
        return -jnp.sum(down) - jnp.sum(right)

    return log_prob


def in_range(low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> LogProb:
    """-|x - clip(x, low, high)|^2: what lies outside the range of the data.

    low, high: of the range, numbers or traced values.
    Returns (x, level) -> scalar.

    >>> level = gj.schedule.at(gj.schedule.cosine(10), 0)
    >>> float(gj.criteria.in_range()(jnp.array([0.5, 3.0, -2.0]), level))
    -5.0
    """

    def log_prob(x: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        return -jnp.sum(jnp.square(x - jnp.clip(x, low, high)))

    return log_prob
