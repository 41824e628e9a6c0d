"""Scales that depend on the level: functions of it, for the argument `scale` of any guidance.

Sources: [Wang] Wang et al. 2404.13040 (monotone schedules), [MDT] Gao et al. 2303.14389 (power-cosine), [LI]
Kynkaanniemi et al. 2404.07724 (interval). [Wang] stretches the schedules to keep their mean over the steps; here `scale` is
the value at the clean end.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from guided_jax.guidance.interval import is_inside
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength

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


def limited(scale: Scale, low: ArrayLike, high: ArrayLike) -> Ramp:
    """scale where low < sigma / alpha <= high, 1, the conditional model, elsewhere ([LI]).

    The same denoiser as `interval` of `classifier_free`, which also leaves out the calls; for `distilled`, of which every
    call is one.
    scale: number, traced value or function of the level.
    low, high: in units of EDM's sigma, numbers or traced values.
    Returns level -> scale.

    >>> scale = gj.guidance.limited(3.0, 0.5, 6.0)
    >>> levels = gj.schedule.karras(3, 0.1, 9.9, rho=1.0)  # sigma is 0.1, 5.0 and 9.9
    >>> [float(scale(gj.schedule.at(levels, i))) for i in (1, 2, 3)]
    [1.0, 3.0, 1.0]
    """

    def value(level: NoiseLevel) -> Array:
        return jnp.where(is_inside(level, low, high), strength(scale, level), 1.0)

    return value


def _cleanness(level: NoiseLevel, num_steps: Value) -> Array:
    return jnp.clip(1 - level.t / num_steps, 0.0, 1.0)
