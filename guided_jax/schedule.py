"""Noise schedules: tables of levels, ascending, level 0 clean.

A schedule is data: a table, computed in float64 on the host and kept as float32 arrays of shape (T + 1,). A sampler
visits some of its levels (`respace`), or levels between two of them (`interpolate`).

Sources: [DDPM] Ho et al. 2006.11239, [iDDPM] Nichol & Dhariwal 2102.09672, [EDM] Karras et al. 2206.00364, [ADM]
Dhariwal & Nichol 2105.05233, [FIT] Jabri et al. 2212.11972, [FM] Lipman et al. 2210.02747, [ZTSNR] Lin et al.
2305.08891, [SDE] Song et al. 2011.13456.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from guided_jax.numerics import is_traced, ratio


class NoiseLevel(NamedTuple):
    """x_t = alpha x_0 + sigma eps at step t: one level (three scalars) or a table of levels (three arrays).

    t: the step, a float: 0 clean, 1..T noise, fractional between two levels of a table.
    alpha, sigma: the amplitudes.
    """

    t: Float[Array, "*levels"]
    alpha: Float[Array, "*levels"]
    sigma: Float[Array, "*levels"]


def from_betas(betas: Sequence[float] | Num[ArrayLike, "..."]) -> NoiseLevel:
    """alpha_t^2 = prod_{i <= t} (1 - beta_i), sigma_t^2 = 1 - alpha_t^2: the VP levels of a list of step variances.

    betas: (T,), each in (0, 1].
    Returns T + 1 levels, the clean one first.
    Raises ValueError when betas is empty, not one-dimensional, or has an entry outside (0, 1].
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"betas has shape {betas.shape}; give a list of at least one step variance")
    bad = betas[~((betas > 0) & (betas <= 1))]
    if bad.size:
        raise ValueError(f"beta {bad[0]:g} is outside (0, 1]; with the linear schedule use at least 21 steps")
    alpha_bar = np.append(1.0, np.cumprod(1 - betas))
    return _table(np.arange(betas.size + 1), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))


def linear(num_steps: int = 1000) -> NoiseLevel:
    """beta_t evenly from 1e-4 to 0.02 ([DDPM] section 4), times 1000 / T ([ADM]).

    num_steps: T, at least 20: fewer would need a beta above 1, which raises ValueError.
    Returns T + 1 levels.

    >>> levels = gj.schedule.linear(1000)
    >>> levels.t.shape, bool(levels.sigma[0] == 0)
    ((1001,), True)
    """
    _check_steps(num_steps)
    stretch = 1000 / num_steps
    return from_betas(np.linspace(stretch * 1e-4, stretch * 0.02, num_steps, dtype=np.float64))


def cosine(num_steps: int = 1000) -> NoiseLevel:
    """alpha_t^2 ~ cos^2((t / T + 0.008) / 1.008 * pi / 2), each beta at most 0.999 ([iDDPM] eq. 17).

    num_steps: T, at least 1.
    Returns T + 1 levels.

    >>> levels = gj.schedule.cosine(1000)
    >>> round(float(levels.alpha[500]), 2), round(float(levels.sigma[500]), 2)
    (0.7, 0.71)
    """
    _check_steps(num_steps)
    alpha_bar = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def sigmoid(num_steps: int = 1000, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> NoiseLevel:
    """alpha_t^2 = (s(1) - s(t / T)) / (s(1) - s(0)), s(u) = 1 / (1 + exp(-(start + u (end - start)) / temperature)).

    [FIT] appendix.
    num_steps: T.
    start, end: the ends of the sigmoid, start < end.
    temperature: above 0. alpha_T^2 is at least 1e-9, so that a network that predicts eps can start there.
    Raises ValueError for other numbers.
    """
    _check_steps(num_steps)
    if not (start < end and temperature > 0):
        raise ValueError(f"start {start}, end {end}, temperature {temperature} must be start < end, temperature > 0")
    s = 1 / (1 + np.exp(-np.linspace(start, end, num_steps + 1) / temperature))
    alpha_bar = np.maximum((s[-1] - s) / (s[-1] - s[0]), 1e-9)
    return _table(np.arange(num_steps + 1), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))


def flow(num_steps: int = 1000) -> NoiseLevel:
    """alpha = 1 - t / T, sigma = t / T: the straight path of flow matching ([FM] example II), pure noise at T.

    num_steps: T. Its networks predict the velocity eps - x_0 (parameterization "flow"), as a rule from the time t / T:
    from_network(network, "flow", time=lambda level: level.t / num_steps).
    """
    _check_steps(num_steps)
    s = np.linspace(0, 1, num_steps + 1)
    return _table(np.arange(num_steps + 1), 1 - s, s)


def zero_terminal_snr(levels: NoiseLevel) -> NoiseLevel:
    """alpha_t <- alpha_1 (alpha_t - alpha_T) / (alpha_1 - alpha_T): the table ends in pure noise ([ZTSNR] algorithm 1).

    levels: a VP table of at least two noisy levels, of which the first stays. A network that is trained on the new
        table has to predict v or x_0.
    Raises ValueError for any other table; a traced one is taken to be VP.
    """
    traced = is_traced(levels)
    alpha, sigma = (column if traced else np.asarray(column, np.float64) for column in levels[1:])
    if len(alpha) < 3 or not (traced or np.allclose(alpha**2 + sigma**2, 1, atol=1e-4)):
        raise ValueError(f"zero_terminal_snr takes a VP table of two noisy levels or more, not one of {len(alpha) - 1}")
    xp: Any = jnp if traced else np
    alpha = xp.append(alpha[:1], alpha[1] * (alpha[1:] - alpha[-1]) / (alpha[1] - alpha[-1]))
    return _table(levels.t, alpha, xp.sqrt(1 - alpha**2))


def karras(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> NoiseLevel:
    """sigma_i = (sigma_min^(1/rho) + i/(N-1) (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho, alpha = 1 ([EDM] eq. 5).

    VE: the clean level and num_steps noisy ones, t = 0..num_steps; start from x_T = sigma_max * noise.
    num_steps: N.
    sigma_min, sigma_max: of the first and the last noisy level, 0 < sigma_min <= sigma_max.
    rho: above 0, the larger the more levels near sigma_min; inf: evenly in log sigma, as the VE schedule of [SDE].
    Raises ValueError for other numbers.

    >>> gj.schedule.karras(3, 0.5, 8.0, rho=1.0).sigma.tolist()
    [0.0, 0.5, 4.25, 8.0]
    >>> gj.schedule.karras(3, 0.5, 8.0, rho=jnp.inf).sigma.tolist()
    [0.0, 0.5, 2.0, 8.0]
    """
    _check_steps(num_steps)
    if not (0 < sigma_min <= sigma_max and rho > 0):
        raise ValueError(f"sigma_min {sigma_min} and sigma_max {sigma_max} must be 0 < sigma_min <= sigma_max, rho > 0")
    ramp = np.linspace(0, 1, num_steps) if num_steps > 1 else np.ones(1)  # a single step starts at sigma_max
    if rho == np.inf:
        sigma = sigma_min * (sigma_max / sigma_min) ** ramp
    else:
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        sigma = (low + ramp * (high - low)) ** rho
    return _table(np.arange(num_steps + 1), np.ones(num_steps + 1), np.append(0.0, sigma))


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
    t, alpha, sigma = (jnp.asarray(column) for column in levels)
    log_snr = jnp.asarray(log_snr, t.dtype)
    table = log_snr_of(NoiseLevel(t, alpha, sigma))[1:]
    inside = jnp.interp(-log_snr, -table, t[1:])
    below = t[1] * jnp.exp(jnp.minimum(table[0] - log_snr, 0))
    t_off = jnp.where(log_snr > table[0], below, inside)
    # (1 - alpha^2) / (sigma (alpha + sigma)) is a straight line in c = alpha / (alpha + sigma) for VP (1 - c), VE (0) and
    # flow matching (1 + c), finite at both ends: interpolating it keeps all three exact.
    rho = jnp.exp(-log_snr / 2)
    kind = jnp.interp(-1 / (1 + rho), *_kind(alpha, sigma))
    clean, small = rho < 1, jnp.minimum(rho, 1 / rho)  # each end by the ratio that is finite there
    large = 1 / jnp.sqrt(jnp.where(clean, 1 + kind * small * (1 + small), jnp.square(small) + kind * (1 + small)))
    return NoiseLevel(t_off, jnp.where(clean, large, small * large), jnp.where(clean, small * large, large))


def log_snr_of(level: NoiseLevel) -> Float[Array, "*levels"]:
    """log(alpha^2 / sigma^2) of a level or a table; finite: at least 175 at sigma = 0, at most -175 at alpha = 0."""
    tiny = jnp.finfo(jnp.float32).tiny
    return 2 * (jnp.log(jnp.maximum(level.alpha, tiny)) - jnp.log(jnp.maximum(level.sigma, tiny)))


def noise_ratio(level: NoiseLevel) -> Float[Array, "*levels"]:
    """sigma / alpha of a level or a table, EDM's sigma: 0 at the clean level, inf where alpha is 0."""
    return ratio(level.sigma, level.alpha, at_zero=jnp.inf)


def is_clean(level: NoiseLevel) -> Bool[Array, "*levels"]:
    """Return whether sigma is 0, of a level or of each level of a table."""
    return jnp.asarray(level.sigma) == 0


def is_pure_noise(level: NoiseLevel) -> Bool[Array, "*levels"]:
    """Return whether alpha is 0, of a level or of each level of a table."""
    return jnp.asarray(level.alpha) == 0


def levels_like(levels: NoiseLevel, dtype: DTypeLike) -> NoiseLevel:
    """Return the levels, a table or one, as arrays of this dtype; columns that have it already are the same objects."""
    columns = (jnp.asarray(column) for column in levels)
    return NoiseLevel(*(column if column.dtype == dtype else column.astype(dtype) for column in columns))


def respace(levels: NoiseLevel, spec: int | str | list[int] | tuple[int, ...]) -> NoiseLevel:
    """Return the levels that a shorter run visits, by [ADM]'s rules; the clean level is kept and t stays the original step.

    levels: the full table.
    spec: 50 or "50" (50 steps, evenly, both ends among them), "ddim50" (a constant stride from the first step),
        "10,15,20" or [10, 15, 20] (so many from each of three equal sections).
    Raises ValueError for any other spec, and for more steps than the table, or a section, has.

    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 5)
    >>> [int(t) for t in levels.t]
    [0, 1, 251, 501, 750, 1000]
    """
    num_steps = len(levels.t) - 1
    if isinstance(spec, str) and spec.strip().startswith("ddim"):
        steps = _strided(num_steps, spec)
    else:
        steps = _sectioned(num_steps, _counts(spec))
    return NoiseLevel(*(jnp.asarray(column)[np.append(0, np.asarray(steps, int) + 1)] for column in levels))


def _strided(num_steps: int, spec: str) -> list[int]:
    """ADM's "ddimN": 0, s, 2 s, ... for the smallest stride s that visits exactly N steps."""
    (count,) = _counts(spec.strip().removeprefix("ddim")) or [0]
    for stride in range(1, num_steps):
        if len(range(0, num_steps, stride)) == count:
            return list(range(0, num_steps, stride))
    raise ValueError(
        f"no constant stride visits exactly {count} of {num_steps} steps; try {str(count)!r} without 'ddim'"
    )


def _sectioned(num_steps: int, counts: list[int]) -> list[int]:
    """ADM's sections: equal shares of the steps (the first ones get the remainder), each visited evenly end to end."""
    steps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = num_steps // len(counts) + (section < num_steps % len(counts))
        if count > size:
            raise ValueError(f"cannot take {count} steps from a section of {size} (of {num_steps} steps in all)")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Repeated addition, then rounding half to even: the sums that ADM's published timesteps come from.
        offsets = np.cumsum([0.0] + [stride] * (count - 1)) if count else np.array([])
        steps += [start + round(float(offset)) for offset in offsets]
        start += size
    return steps


def _counts(spec: int | str | list[int] | tuple[int, ...]) -> list[int]:
    """The numbers of a spec, one for each section. Raises ValueError for anything but whole numbers."""
    parts = spec.split(",") if isinstance(spec, str) else spec if isinstance(spec, (list, tuple)) else [spec]
    try:
        counts = [int(part) if isinstance(part, str) else operator.index(part) for part in parts]
    except (TypeError, ValueError):
        counts = []
    if any(isinstance(part, (bool, np.bool_)) for part in parts):
        counts = []
    if not counts or min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"cannot read the steps {spec!r}; give 50, '50', 'ddim50', '10,15,20' or [10, 15, 20]")
    return counts


def _kind(alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """(-c, kind) of a table; at the ends c = 1 and c = 0 kind is extrapolated linearly from the levels near them."""
    c = alpha[1:] / (alpha[1:] + sigma[1:])
    kind = (1 - jnp.square(alpha[1:])) / (sigma[1:] * (alpha[1:] + sigma[1:]))
    if len(alpha) < 3:  # a single level does not tell its kind: VP, or VE where its alpha is 1
        return jnp.array([-1.0, 0.0]), jnp.append(0.0, jnp.where(alpha[1] < 1, 1.0, 0.0))
    far = max(1, len(c) // 8)  # neighbours are too close for a line in float32
    clean = kind[0] + (kind[far] - kind[0]) / (c[far] - c[0]) * (1 - c[0])
    noise = kind[-1] + (kind[-1 - far] - kind[-1]) / (c[-1 - far] - c[-1]) * (0 - c[-1])
    return -jnp.concatenate([jnp.ones(1), c, jnp.zeros(1)]), jnp.concatenate([clean[None], kind, noise[None]])


def _check_position(index: int | Int[ArrayLike, "*index"], size: int) -> None:
    try:
        values = np.asarray(index)
    except jax.errors.TracerArrayConversionError:
        return
    outside = values[(values < -size) | (values >= size)]
    if outside.size:
        outside = outside.flat[0]
        raise IndexError(f"level {outside} is outside the table of {size} levels (0 is clean, {size - 1} the noisiest)")


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a schedule needs at least one step")


def _table(t: Any, alpha: Any, sigma: Any) -> NoiseLevel:
    return NoiseLevel(*(jnp.asarray(column, jnp.float32) for column in (t, alpha, sigma)))
