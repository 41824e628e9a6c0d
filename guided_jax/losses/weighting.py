"""Weightings: how much the loss of each noise level counts, independent of what a network predicts.

A weighting is a function log SNR -> log w, SNR = alpha^2 / sigma^2, of the loss w |x_0 - predicted x_0|^2, whichever
loss its paper states it for; `of_loss` converts it to the weight of the loss that a network is trained on. It works
with logarithms, which are finite at both ends of a schedule (`schedule.log_snr_of`), where SNR is infinite or 0.

Sources: [MinSNR] Hang et al. 2303.09556, [P2] Choi et al. 2204.00227, [KG] Kingma & Gao 2303.00848, [SiD2] Hoogeboom et
al. 2410.19324, [EDM] Karras et al. 2206.00364.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from guided_jax.schedule import NoiseLevel, log_snr_of

LogWeight = Callable[[Float[Array, "*levels"]], Float[Array, "*levels"]]  # log SNR -> log w
Weight = Callable[[NoiseLevel], Float[Array, "*levels"]]

# The logarithm of the greatest weight: float32 ends at 88, and the weight is still multiplied by a loss and its gradient.
MOST = 60.0


def min_snr(log_snr: Float[Array, "*levels"], gamma: float = 5.0) -> Float[Array, "*levels"]:
    """w = min(SNR, gamma) on the loss of x_0 ([MinSNR]). log_snr: of the levels. gamma: above 0; 5 in the paper."""
    return jnp.minimum(log_snr, jnp.log(gamma))


def p2(log_snr: Float[Array, "*levels"], gamma: float = 1.0, k: float = 1.0) -> Float[Array, "*levels"]:
    """w = SNR / (k + SNR)^gamma, which is 1 / (k + SNR)^gamma on the loss of eps ([P2]).

    log_snr: of the levels.
    gamma: 0 is the plain loss of eps; 0.5 and 1 in the paper.
    k: above 0; 1 in the paper.
    """
    return log_snr - gamma * jnp.logaddexp(log_snr, jnp.log(k))


def sigmoid(log_snr: Float[Array, "*levels"], bias: float = 2.0) -> Float[Array, "*levels"]:
    """w = e^b s(log SNR - b), which is s(b - log SNR) on the loss of eps, s(u) = 1 / (1 + e^-u) ([KG], [SiD2]).

    Stated per unit of log SNR: `per_log_snr` is the factor for a table.
    log_snr: of the levels.
    bias: b; 2 for small pictures ([KG]), -1 to -3 from 128 to 512 pixels ([SiD2]).
    """
    return bias + jax.nn.log_sigmoid(log_snr - bias)


def edm(log_snr: Float[Array, "*levels"], sigma_data: float = 0.5) -> Float[Array, "*levels"]:
    """w = SNR + 1 / sigma_data^2 on the loss of x_0 ([EDM] table 1: (s^2 + sigma_data^2) / (s sigma_data)^2).

    s^2 = 1 / SNR.
    log_snr: of the levels.
    sigma_data: the standard deviation of the data. On the loss of v the weight lies between 1 and 1 / sigma_data^2; on
        that of eps it grows without bound towards pure noise.
    """
    return jnp.logaddexp(log_snr, -2 * jnp.log(sigma_data))


def of_loss(log_weight: LogWeight, level: NoiseLevel, target: str = "eps") -> Float[Array, "*levels"]:
    """Return the weight of (output - target)^2 that makes it w (x_0 - predicted x_0)^2.

    An error d of x_0 is one of -alpha / sigma d in eps, of -(alpha^2 + sigma^2) / sigma d in v and of -(alpha + sigma) /
    sigma d in flow.
    log_weight: log SNR -> log w.
    level: one, or a table.
    target: "eps", "x_0", "v", "score" or "flow"; the weight of a score is that of the loss of its eps, which
        `denoising` computes. Finite at both ends of every table, at most e^60.
    Raises ValueError for any other target.
    """
    if target not in LOG_FACTORS:
        raise ValueError(f"unknown target {target!r}; choose one of {', '.join(LOG_FACTORS)}")
    level = NoiseLevel(*(jnp.asarray(column) for column in level))
    return jnp.exp(jnp.minimum(log_weight(log_snr_of(level)) + LOG_FACTORS[target](level), MOST))


def per_log_snr(levels: NoiseLevel) -> Weight:
    """level -> -1/2 d(log SNR) / d(t / T): the factor between a loss over uniform t and one over uniform log SNR ([KG]).

    levels: the table of the training, of at least two noisy levels with alpha > 0, within which the slope is taken, by
        central differences.
    Returns a function of the level.
    Raises ValueError for fewer levels.
    """
    t, alpha, sigma = (np.asarray(column, np.float64)[1:] for column in levels)
    finite = alpha > 0
    if finite.sum() < 2:
        raise ValueError(f"a table of {finite.sum()} noisy levels above alpha = 0 has no slope; give two or more")
    slope = -t[-1] / 2 * np.gradient(2 * np.log(alpha[finite] / sigma[finite]), t[finite])
    times, slopes = (jnp.asarray(column, jnp.float32) for column in (t[finite], slope))
    return lambda level: jnp.interp(level.t, times, slopes)


# log (d error of x_0 / d error of the target)^2: from the loss of x_0 to that of the target.
LOG_FACTORS: dict[str, Weight] = {
    "eps": lambda level: -log_snr_of(level),
    "x_0": lambda level: jnp.zeros_like(level.t),
    "v": lambda level: 2 * jnp.log(_positive(level.sigma) / _power(level)),
    "score": lambda level: -log_snr_of(level),  # sigma (output - score) is the error of eps
    "flow": lambda level: 2 * jnp.log(_positive(level.sigma) / (level.alpha + level.sigma)),
}


def _power(level: NoiseLevel) -> Array:
    return jnp.square(level.alpha) + jnp.square(level.sigma)


def _positive(value: Array) -> Array:
    return jnp.maximum(value, jnp.finfo(jnp.float32).tiny)
