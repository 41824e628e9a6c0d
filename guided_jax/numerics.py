"""Arithmetic that stays finite, in its values and in its gradients, at both ends of a noise schedule."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

TINY = 1e-12  # whose root has finite derivatives
LOG_TWO_PI = math.log(2 * math.pi)  # jnp.log of a Python number is float32, in 64-bit mode too


def ratio(numerator, denominator, at_zero: float = 0.0) -> Float[Array, "..."]:
    """numerator / denominator, and at_zero where the denominator is 0; finite in its gradient too.

    An array over a scalar is multiplied by the reciprocal. XLA makes that rewrite only when the divisor has one use, and
    whether it has may differ between one device and several, so results would differ in the last bit.
    """
    zero = jnp.asarray(denominator) == 0
    divisor = jnp.where(zero, 1.0, denominator)
    alike = jnp.ndim(numerator) == jnp.ndim(denominator)
    return jnp.where(zero, at_zero, numerator / divisor if alike else numerator * (1 / divisor))


def root(variance) -> Float[Array, "..."]:
    """sqrt(max(variance, 0)), with gradient 0 instead of infinity at 0.

    Where it is not positive the root is of TINY, not of 1: XLA may compute a variance twice, in two fusions that round
    differently, and so find it positive in one place and not in the other. Its root is then nearly 0, and not 1.
    """
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, TINY)), 0.0)


def norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """|x|_2 over one whole example, with gradient 0 instead of NaN at 0."""
    return root(jnp.sum(jnp.square(x)))


def gaussian_matrix(size: int, std: ArrayLike) -> Float[Array, "{size} {size}"]:
    """G_ij ~ exp(-(i - j)^2 / (2 std^2)), rows summing to 1: a blur along one axis; the identity at 0, the mean at inf.

    size: the number of positions.
    std: the standard deviation in positions, a number or traced value.
    """
    place = jnp.arange(size, dtype=jnp.float32)
    distance = jnp.square((place[:, None] - place[None, :]) / jnp.maximum(std, 1e-3))
    weights = jnp.exp(-distance / 2)
    return weights / jnp.sum(weights, 1, keepdims=True)


def widen(tree: Any) -> Any:
    """Return tree with its arrays in float32 at least: bfloat16, float16 and ints are cast, float32 and float64 stay."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, jnp.float32)), tree)


def narrow(tree: Any, dtype: Any) -> Any:
    """Return tree with its float64 arrays cast to dtype, or to float32 if dtype is less; all other leaves unchanged.

    In 64-bit mode one NumPy constant would turn a float32 state into float64. Without 64-bit mode nothing changes.
    """
    kept = jnp.promote_types(dtype, jnp.float32)

    def cast(leaf: Any) -> Any:
        return jnp.asarray(leaf, kept) if getattr(leaf, "dtype", None) == jnp.float64 else leaf

    return tree if kept == jnp.float64 else jax.tree.map(cast, tree)


def narrow_like(tree: Any, like: Any) -> Any:
    """Return tree with each float64 array cast to the type of the leaf of `like` that stands in its place.

    tree, like: two pytrees; where their structures differ, tree is returned as it is.
    """
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(like):
        return tree
    return jax.tree.map(lambda leaf, old: narrow(leaf, jnp.result_type(old)) if _is_float(old) else leaf, tree, like)


def is_zero(value: Any) -> bool:
    """Return whether value is the Python number 0, so that what it multiplies need not be computed; a traced one is not."""
    return isinstance(value, (int, float)) and bool(value == 0)


def is_traced(tree: Any) -> bool:
    """Return whether a leaf of the tree is traced, as under jax.jit, jax.vmap and jax.grad, and has no value yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
