"""Grids: the levels that a run visits, spaced evenly in a variable other than the steps of a table.

`schedule.respace` picks steps of the table itself, evenly in t, as ADM does. A grid of n steps has the clean level and
n levels from the table's first noisy level to its noisiest one, evenly in t, sqrt(t), log SNR or Karras's power of
sigma / alpha; between two levels of the table t is fractional. Grids are computed in float64 on the host; of a table or
a number that is traced, inside the compiled program and in its own precision. Where the noisiest level has alpha = 0, the
grid keeps that level, and spaces the other n - 1 if the variable is infinite there.

Sources: [EDM] Karras et al. 2206.00364 eq. 5, [DDIM] Song et al. 2010.02502 appendix D.2, [DPM] Lu et al. 2206.00927,
[SDEdit] Meng et al. 2108.01073.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from guided_jax.numerics import is_traced
from guided_jax.schedule import NoiseLevel, interpolate

TINY = np.finfo(np.float32).tiny


def uniform(levels: NoiseLevel, num_steps: int) -> NoiseLevel:
    """t_i evenly from t_1 to T, not rounded to the table's steps.

    levels: the full table.
    num_steps: at least 1.
    Returns num_steps + 1 levels.
    """
    return by_time(levels, _module(levels).linspace(*_ends(levels, num_steps), num_steps)[::-1])


def quadratic(levels: NoiseLevel, num_steps: int) -> NoiseLevel:
    """sqrt(t_i) evenly from sqrt(t_1) to sqrt(T): more steps near the clean end ([DDIM] appendix D.2).

    levels: the full table.
    num_steps: at least 1.
    Returns num_steps + 1 levels.
    """
    xp, (first, last) = _module(levels), _ends(levels, num_steps)
    t = xp.linspace(xp.sqrt(first), xp.sqrt(last), num_steps)[::-1] ** 2
    return by_time(levels, xp.append(last, t[1:]) if num_steps > 1 else t)  # sqrt(T)^2 is not always T


def log_snr(levels: NoiseLevel, num_steps: int, sigma_max: float | Array = math.inf) -> NoiseLevel:
    """log(alpha_i^2 / sigma_i^2) evenly between the table's ends ([DPM]).

    levels: the full table.
    num_steps: at least 1.
    sigma_max: the greatest sigma / alpha to start from. The cosine schedule ends at 2e4, and a third of the levels
        would lie where nothing is left of x_0; 80 is enough for pictures.
    Returns num_steps + 1 levels.
    Raises ValueError for a sigma_max below the table's first noisy level.

    >>> levels = gj.grid.log_snr(gj.schedule.cosine(1000), 10, sigma_max=80.0)
    >>> levels.t.shape, round(float(levels.sigma[-1] / levels.alpha[-1]))
    ((11,), 80)
    """
    xp = _module((levels, sigma_max))
    return _spread(levels, num_steps, sigma_max, lambda ratio: -2 * xp.log(ratio), lambda value: xp.exp(-value / 2))


def karras(
    levels: NoiseLevel, num_steps: int, rho: float | Array = 7.0, sigma_max: float | Array = math.inf
) -> NoiseLevel:
    """(sigma_i / alpha_i)^(1/rho) evenly between the table's ends ([EDM] eq. 5); `schedule.karras` needs no table.

    levels, num_steps, sigma_max: as for `log_snr`.
    rho: above 0.
    Returns num_steps + 1 levels.
    """
    if not (is_traced(rho) or rho > 0):
        raise ValueError(f"rho is {rho}; give a positive number, such as 7")
    return _spread(levels, num_steps, sigma_max, lambda ratio: ratio ** (1 / rho), lambda value: value**rho)


def by_time(levels: NoiseLevel, t: Sequence[float] | np.ndarray | Array) -> NoiseLevel:
    """Return the clean level and those at the given t, in any order, on the table or between two of its levels.

    Between two levels log(alpha^2 / sigma^2) is linear in t.
    levels: the full table.
    t: (n,), from the table's first noisy step to its last.
    Raises ValueError for any other; of a traced table or traced t, the nearest end takes the place of what lies beyond it.
    """
    xp = _module((levels, t))
    table, times, wanted = -2 * xp.log(_ratios(levels)), _wide(levels.t)[1:], _wide(t)
    if xp is np:
        _check_times(wanted, times)
    return custom(levels, xp.interp(wanted, times, table))


def custom(levels: NoiseLevel, log_snr: Sequence[float] | np.ndarray | Array) -> NoiseLevel:
    """Return the clean level and those with the given log(alpha^2 / sigma^2), in any order.

    levels: the full table.
    log_snr: (n,).
    """
    xp = _module((levels, log_snr))
    # Inside a trace too, a grid of a concrete table is data.
    with jax.ensure_compile_time_eval() if xp is np else contextlib.nullcontext():
        noisy = interpolate(levels, xp.sort(_wide(log_snr))[::-1].astype(np.float32))
        columns = (xp.append(clean, column) for clean, column in zip((0, 1, 0), noisy, strict=True))
        return NoiseLevel(*(jnp.asarray(column, jnp.float32) for column in columns))


def truncate(levels: NoiseLevel, strength: float) -> NoiseLevel:
    """Return the levels of the last floor(strength T) of T steps: to start from an image x_0 and not from noise ([SDEdit]).

    The run starts at the last of them, x_t = alpha x_0 + sigma eps (`forward.diffuse`).

    levels: those that a whole run visits, T + 1 of them.
    strength: the share of the steps that are run, as in diffusers; in (0, 1]. 1 keeps all levels: then x_t is noise, up to
        alpha_T x_0.
    Raises ValueError for a strength outside (0, 1], and for one of less than a step.

    >>> levels = gj.grid.truncate(gj.schedule.respace(gj.schedule.cosine(1000), 5), 0.6)
    >>> [int(t) for t in levels.t]
    [0, 1, 251, 501]
    """
    num_steps = len(levels.t) - 1
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; give a number above 0, up to 1")
    count = math.floor(strength * num_steps + 1e-6)  # 0.29 * 100 is 28.999999999999996
    if count < 1:
        raise ValueError(
            f"strength is {strength}, less than one of {num_steps} steps; give a higher one, or more steps"
        )
    return NoiseLevel(*(jnp.asarray(column)[: count + 1] for column in levels))


def _spread(levels: NoiseLevel, num_steps: int, sigma_max: Any, variable: Any, inverse: Any) -> NoiseLevel:
    """num_steps levels, evenly in variable(sigma / alpha), whose inverse is `inverse`."""
    _ends(levels, num_steps)
    xp, ratios = _module((levels, sigma_max)), _ratios(levels)
    if xp is np and not sigma_max > ratios[0]:
        raise ValueError(f"sigma_max is {sigma_max}; the table's first noisy level is {ratios[0]:g} already")

    def spread(end: Any, count: int) -> Any:
        last = xp.minimum(sigma_max, end)
        return inverse(xp.linspace(variable(ratios[0]), variable(last), count)) if count > 1 else xp.full(count, last)

    # Where alpha is 0 the variable is infinite: that level is kept as it is, and the others are spaced evenly.
    pure = (ratios[-1] * TINY >= 1) & (sigma_max == math.inf) & (len(ratios) > 1)
    kept = xp.append(spread(ratios[-2:][0], num_steps - 1), ratios[-1])
    return custom(levels, -2 * xp.log(xp.where(pure, kept, spread(ratios[-1], num_steps))))


def _module(values: Any) -> Any:
    """Return `numpy`, in which concrete values are computed in float64, or `jax.numpy` where one of them is traced."""
    return jnp if is_traced(values) else np


def _wide(values: Any) -> Any:
    """Return an array in float64, or a traced one in the widest type that JAX has."""
    return jnp.asarray(values, float) if is_traced(values) else np.asarray(values, np.float64)


def _ratios(levels: NoiseLevel) -> Any:
    """sigma / alpha of the noisy levels, ascending; 1 / TINY where alpha is 0."""
    alpha, sigma = (_wide(column)[1:] for column in levels[1:])
    return sigma / _module(levels).maximum(alpha, TINY)


def _check_times(t: np.ndarray, times: np.ndarray) -> None:
    """Raise ValueError for anything but a list of noisy steps of a table."""
    outside = t[(t < 0.999 * times[0]) | (t > 1.001 * times[-1])] if t.ndim == 1 and t.size else t
    if t.ndim != 1 or not t.size or outside.size:
        raise ValueError(f"t {outside} is not a list of noisy steps of this table, {times[0]:g} to {times[-1]:g}")


def _ends(levels: NoiseLevel, num_steps: int) -> tuple[Any, Any]:
    """The first and the last noisy t. Raises ValueError for a run of no steps."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a run needs at least one step")
    times = _wide(levels.t)
    return times[1], times[-1]
