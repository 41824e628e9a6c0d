"""Scales that grow as the noise falls: functions of the level, for the argument `scale` of any guidance.

Sources: [Wang] Wang et al. 2404.13040 (monotone schedules), [MDT] Gao et al. 2303.14389 (power-cosine). [Wang]
stretches the schedules to keep their mean over the steps; here `scale` is the value at the clean end.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from guided_jax.schedule import NoiseLevel

Value = float | int | Array
Ramp = Callable[[NoiseLevel], ArrayLike]


def linear_ramp(scale: Value, num_steps: Value) -> Ramp:
    """1 + (scale - 1) (1 - t / T): 1, the conditional model, at t = T; scale at t = 0 ([Wang]).

    scale: a number or traced value.
    num_steps: T, the last t of the table, a number or traced value.
    Returns level -> scale.
    """
    return lambda level: 1 + (scale - 1) * _cleanness(level, num_steps)


def cosine_ramp(scale: Value, num_steps: Value, power: Value = 1.0) -> Ramp:
    """1 + (scale - 1) (1 - cos(pi (1 - t / T)^power)) / 2.

    scale, num_steps: as for `linear_ramp`.
    power: 1 for the cosine, 4 in [MDT]; a number or traced value.
    Returns level -> scale.
    """
    return lambda level: 1 + (scale - 1) * (1 - jnp.cos(jnp.pi * _cleanness(level, num_steps) ** power)) / 2


def _cleanness(level: NoiseLevel, num_steps: Value) -> Array:
    return jnp.clip(1 - level.t / num_steps, 0.0, 1.0)
