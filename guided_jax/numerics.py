"""Arithmetic that stays finite, in its values and in its gradients, at both ends of a noise schedule."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def ratio(numerator, denominator, at_zero: float = 0.0) -> Float[Array, "..."]:
    """numerator / denominator, and at_zero where the denominator is 0; finite in its gradient too.

    An array over a scalar is multiplied by the reciprocal. XLA does that by itself to a divisor that has one use, which it
    counts before it merges what is written twice on one device, and after on several: the last bit of an image would
    differ.
    """
    zero = jnp.asarray(denominator) == 0
    divisor = jnp.where(zero, 1.0, denominator)
    alike = jnp.ndim(numerator) == jnp.ndim(denominator)
    return jnp.where(zero, at_zero, numerator / divisor if alike else numerator * (1 / divisor))


def root(variance) -> Float[Array, "..."]:
    """sqrt(max(variance, 0)), with gradient 0 instead of infinity at 0."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """|x|_2 over one whole example, with gradient 0 instead of NaN at 0."""
    return root(jnp.sum(jnp.square(x)))


def gaussian_matrix(size: int, std: ArrayLike) -> Float[Array, "{size} {size}"]:
    """G_ij ~ exp(-(i - j)^2 / (2 std^2)), rows summing to 1: a blur along one axis; the identity at 0, the mean at inf.

    size: the number of positions. std: the standard deviation in positions, a number or traced value.
    """
    place = jnp.arange(size, dtype=jnp.float32)
    distance = jnp.square((place[:, None] - place[None, :]) / jnp.maximum(std, 1e-3))
    weights = jnp.exp(-distance / 2)
    return weights / jnp.sum(weights, 1, keepdims=True)
