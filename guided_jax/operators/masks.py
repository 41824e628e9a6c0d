"""Measurements of some pixels: inpainting."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from guided_jax.operators.linear import Operator, from_spectrum


def mask(observed: Array) -> Operator:
    """A x = observed * x: inpainting.

    observed: 1 (or True) where x is known, 0 elsewhere, where y is 0 too; numbers between are weights. It broadcasts to
        x.

    >>> half = gj.operators.mask(jnp.array([1.0, 1.0, 0.0, 0.0]))
    >>> half.forward(jnp.arange(4.0)).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    weights = jnp.asarray(observed, jnp.float32)
    return from_spectrum(
        lambda x: x * weights, lambda y: y * weights, lambda function, y: y * function(jnp.square(weights))
    )


def random_mask(key, shape: tuple[int, ...], share: ArrayLike) -> Operator:
    """A x = x at pixels drawn at random, 0 elsewhere; a pixel is observed in all of its channels or in none.

    key: a JAX key, of this example.
    shape: of x, (height, width, channels).
    share: the probability that a pixel is observed, a number or traced value.
    """
    return mask(jax.random.bernoulli(key, share, (*shape[:-1], 1)))


def box_mask(
    shape: tuple[int, int, int], top: ArrayLike, left: ArrayLike, height: ArrayLike, width: ArrayLike
) -> Operator:
    """A x = x outside of a box of pixels, 0 inside of it.

    shape: of x, (height, width, channels).
    top, left: the first row and the first column that are hidden, numbers or traced values.
    height, width: of the box.

    >>> hidden = gj.operators.box_mask((2, 3, 1), top=0, left=1, height=1, width=2)
    >>> hidden.forward(jnp.ones((2, 3, 1)))[..., 0].tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    row, column = jnp.arange(shape[0])[:, None, None], jnp.arange(shape[1])[None, :, None]
    hidden = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return mask(~hidden)
