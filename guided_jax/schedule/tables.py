"""Schedules: tables of levels by formula.

Sources: [DDPM] Ho et al. 2006.11239, [iDDPM] Nichol & Dhariwal 2102.09672, [EDM] Karras et al. 2206.00364, [ADM]
Dhariwal & Nichol 2105.05233, [FIT] Jabri et al. 2212.11972, [FM] Lipman et al. 2210.02747, [ZTSNR] Lin et al.
2305.08891, [SDE] Song et al. 2011.13456.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Num

from guided_jax.numerics import is_traced
from guided_jax.schedule.level import NoiseLevel


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
        raise ValueError(
            f"beta {bad[0]:g} is outside (0, 1]; the linear schedule needs at least 20 steps (21 to end above alpha = 0)"
        )
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

    [FIT].
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


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a schedule needs at least one step")


def _table(t: Any, alpha: Any, sigma: Any) -> NoiseLevel:
    return NoiseLevel(*(jnp.asarray(column, jnp.float32) for column in (t, alpha, sigma)))
