"""Levels between two levels of a table."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from guided_jax.numerics import is_traced
from guided_jax.schedule.level import SMALLEST, NoiseLevel, log_snr_of


def interpolate(levels: NoiseLevel, log_snr: Float[ArrayLike, "*at"]) -> NoiseLevel:
    """Return the level with log(alpha^2 / sigma^2) = log_snr, on the grid of the table or between two of its levels.

    levels: a table.
    log_snr: a number, a traced value or an array, for which a table is returned. t, fractional, is linear in log_snr
        between two noisy levels, linear in sigma^2 / alpha^2 between the clean level and the first noisy one, and stays
        at T beyond the last. alpha and sigma are exact for VP, VE and flow matching.

    >>> level = gj.schedule.interpolate(gj.schedule.cosine(1000), 0.0)  # as much signal as noise
    >>> round(float(level.alpha), 3), round(float(level.sigma), 3)
    (0.707, 0.707)
    """
    table = NoiseLevel(*(jnp.asarray(column) for column in levels))
    log_snr = jnp.asarray(log_snr, table.t.dtype)
    if is_traced((table, log_snr)):
        return _interpolate(jnp, table, log_snr)
    # By NumPy, with the same result: eagerly, JAX would compile a program for each of forty operations.
    with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
        found = _interpolate(np, tuple(map(np.asarray, table)), np.asarray(log_snr))
        return NoiseLevel(*map(jnp.asarray, found))


def _interpolate(xp: Any, levels: Any, log_snr: Any) -> NoiseLevel:
    """Return `interpolate` of arrays of xp, jax.numpy or numpy; log, exp and interp are always those of JAX."""
    t, alpha, sigma = levels
    exp = lambda power: xp.asarray(jnp.exp(power))  # noqa: E731
    interp = lambda x, known, values: xp.asarray(jnp.interp(x, known, values))  # noqa: E731
    table = xp.asarray(log_snr_of(NoiseLevel(t, alpha, sigma)))[1:]
    inside = interp(-log_snr, -table, t[1:])
    below = t[1] * exp(xp.minimum(table[0] - log_snr, 0))
    t_off = xp.where(log_snr > table[0], below, inside)
    # (1 - alpha^2) / (sigma (alpha + sigma)) is a straight line in c = alpha / (alpha + sigma) for VP (1 - c), VE (0) and
    # flow matching (1 + c), finite at both ends: interpolating it keeps all three exact.
    rho = exp(-log_snr / 2)
    kind = interp(-1 / (1 + rho), *_kind(xp, alpha, sigma))
    clean, small = rho < 1, xp.minimum(rho, 1 / rho)  # each end by the ratio that is finite there
    large = 1 / xp.sqrt(xp.where(clean, 1 + kind * small * (1 + small), xp.square(small) + kind * (1 + small)))
    small = xp.where(small > 1.001 * SMALLEST, small, 0) * large  # 0 again where `log_snr_of` put SMALLEST in its place
    return NoiseLevel(t_off, xp.where(clean, large, small), xp.where(clean, small, large))


def _kind(xp: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """(-c, kind) of a table; at the ends c = 1 and c = 0 kind is extrapolated linearly from the levels near them."""
    c = alpha[1:] / (alpha[1:] + sigma[1:])
    kind = (1 - xp.square(alpha[1:])) / (sigma[1:] * (alpha[1:] + sigma[1:]))
    if len(alpha) < 3:  # a single level does not tell its kind: VP, or VE where its alpha is 1
        return xp.array([-1.0, 0.0]), xp.append(0.0, xp.where(alpha[1] < 1, 1.0, 0.0))
    far = max(1, len(c) // 8)  # neighbours are too close for a line in float32
    clean = kind[0] + (kind[far] - kind[0]) / (c[far] - c[0]) * (1 - c[0])
    noise = kind[-1] + (kind[-1 - far] - kind[-1]) / (c[-1 - far] - c[-1]) * (0 - c[-1])
    ends = [xp.ones(1, c.dtype), c, xp.zeros(1, c.dtype)]
    return -xp.concatenate(ends), xp.concatenate([clean[None], kind, noise[None]])
