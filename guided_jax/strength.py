"""What every guidance is told: how strongly, and towards what."""

from collections.abc import Callable

from jaxtyping import Array, ArrayLike, Float

from guided_jax.schedule import NoiseLevel

Scale = float | int | Array | Callable[[NoiseLevel], ArrayLike]
LogProb = Callable[[Float[Array, "*shape"], NoiseLevel], Float[Array, ""]]  # (x_t, level) -> log p(y | x_t)


def strength(scale: Scale, level: NoiseLevel) -> ArrayLike:
    """The scale at a level: a number or traced value as it is, a function of the level called on it."""
    return scale(level) if callable(scale) else scale
