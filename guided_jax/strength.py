"""The two types that guidance and samplers share: a scale, and a log probability."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.numerics import narrow
from guided_jax.schedule import NoiseLevel

Scale = ArrayLike | Callable[[NoiseLevel], ArrayLike]
LogProb = Callable[[Float[Array, "*shape"], NoiseLevel], Float[Array, ""]]  # (x_t, level) -> log p(y | x_t)


def strength(scale: Scale, level: NoiseLevel, name: str = "scale") -> ArrayLike:
    """Return scale(level) for a function of the level, and the scale itself for a number or traced value.

    name: of the argument, for the message.
    Raises ValueError for a scale that is not a single number.
    """
    value = scale(level) if callable(scale) else scale
    check_number(name, value, or_function=True)
    return narrow(value, jnp.result_type(level.alpha))
