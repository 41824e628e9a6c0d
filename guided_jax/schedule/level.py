"""Noise levels: one, or a table of them, and what is read from either."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from guided_jax.numerics import ratio

SMALLEST = float(np.finfo(np.float32).tiny)  # stands for an amplitude of 0 in a logarithm


class NoiseLevel(NamedTuple):
    """x_t = alpha x_0 + sigma eps at step t: one level (three scalars) or a table of levels (three arrays).

    t: the step, a float: 0 clean, 1..T noise, fractional between two levels of a table.
    alpha, sigma: the amplitudes.
    """

    t: Float[Array, "*levels"]
    alpha: Float[Array, "*levels"]
    sigma: Float[Array, "*levels"]


def at(levels: NoiseLevel, index: int | Int[ArrayLike, "*index"]) -> NoiseLevel:
    """Return the level at a position of the table (not at a value of t), or a table of several.

    levels: a table.
    index: int, traced int or int array; negative ones count from the noisy end.
    Raises IndexError for an index outside the table; a traced one is clamped to it, as JAX does.

    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 10)
    >>> float(gj.schedule.at(levels, 0).t), float(gj.schedule.at(levels, -1).t)
    (0.0, 1000.0)
    """
    _check_position(index, len(levels.t))
    return NoiseLevel(*(jnp.asarray(column)[index] for column in levels))


def log_snr_of(level: NoiseLevel) -> Float[Array, "*levels"]:
    """log(alpha^2 / sigma^2) of a level or a table; finite: at least 175 at sigma = 0, at most -175 at alpha = 0."""
    return 2 * (jnp.log(jnp.maximum(level.alpha, SMALLEST)) - jnp.log(jnp.maximum(level.sigma, SMALLEST)))


def noise_ratio(level: NoiseLevel) -> Float[Array, "*levels"]:
    """sigma / alpha of a level or a table, EDM's sigma: 0 at the clean level, inf where alpha is 0."""
    return ratio(level.sigma, level.alpha, at_zero=jnp.inf)


def is_clean(level: NoiseLevel) -> Bool[Array, "*levels"]:
    """Return whether sigma is 0, of a level or of each level of a table."""
    return jnp.asarray(level.sigma) == 0


def is_pure_noise(level: NoiseLevel) -> Bool[Array, "*levels"]:
    """Return whether alpha is 0, of a level or of each level of a table."""
    return jnp.asarray(level.alpha) == 0


def fold_in(key: Key[Array, ""], level: NoiseLevel) -> Key[Array, ""]:
    """Return the key of a level: another one at each t, the same whenever a sampler comes back to it.

    key: a JAX key, of the example.
    level: one level.
    """
    # The bits of t, because t is fractional between two levels of the table.
    step = jax.lax.bitcast_convert_type(jnp.asarray(level.t, jnp.float32), jnp.uint32)
    return jax.random.fold_in(key, step)


def levels_like(levels: NoiseLevel, dtype: DTypeLike) -> NoiseLevel:
    """Return the levels, a table or one, as arrays of this dtype; columns that have it already are the same objects."""
    columns = (jnp.asarray(column) for column in levels)
    return NoiseLevel(*(column if column.dtype == dtype else column.astype(dtype) for column in columns))


def _check_position(index: int | Int[ArrayLike, "*index"], size: int) -> None:
    try:
        values = np.asarray(index)
    except jax.errors.TracerArrayConversionError:
        return
    outside = values[(values < -size) | (values >= size)]
    if outside.size:
        outside = outside.flat[0]
        raise IndexError(f"level {outside} is outside the table of {size} levels (0 is clean, {size - 1} the noisiest)")
