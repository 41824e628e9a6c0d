"""One prediction carries both views of a noisy example: its clean part x_0 and its noise eps.

Whatever a network was trained to predict (eps, x_0, v, the score, a flow velocity), these functions turn it into the
same `Prediction`. Every guidance and every sampler then reads the view that is well conditioned at its level.

Two ends of the schedule are special. At sigma = 0 nothing is noise: eps = score = 0. At alpha = 0 nothing of x_0 is
left in x_t, so x_0 cannot be computed from eps or a score: a ValueError for a concrete level, NaN for a traced one
(`sampler.sample` checks the table before it compiles).

Sources: [DDPM] Ho et al. 2006.11239 eq. 15, [PD] Salimans & Ho 2202.00512 appendix D, [FM] Lipman et al. 2210.02747.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.numerics import ratio
from guided_jax.schedule import NoiseLevel, is_clean


class Prediction(NamedTuple):
    """E[x_0 | x_t] and E[eps | x_t], both (*shape): what a denoiser returns.

    variance_fraction: of a network with learned variance, where the log variance of the step lies between the posterior
    variance (0) and beta (1), for each element ([iDDPM] eq. 15); otherwise None.
    """

    x_0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]
    variance_fraction: Float[Array, "..."] | None = None


def from_eps(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 = (x_t - sigma eps) / alpha ([DDPM] eq. 15).

    output: (*shape), the network's eps.
    x_t: (*shape).
    level: of x_t.
    Returns a Prediction.
    Raises ValueError at alpha = 0.

    >>> level = gj.schedule.at(gj.schedule.karras(2, 1.0, 3.0), 2)
    >>> gj.prediction.from_eps(jnp.array([1.0]), jnp.array([3.5]), level).x_0.tolist()
    [0.5]
    """
    _refuse_pure_noise(level, "eps")
    return Prediction(ratio(x_t - level.sigma * output, level.alpha, at_zero=jnp.nan), _zero_if_clean(output, level))


def from_x_0(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """eps = (x_t - alpha x_0) / sigma.

    output: (*shape), the network's x_0.
    x_t: (*shape).
    level: of x_t.
    Returns a Prediction.
    """
    return Prediction(output, ratio(x_t - level.alpha * output, level.sigma))


def from_v(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2), eps = (sigma x_t + alpha v) / (alpha^2 + sigma^2).

    The divisor is 1 for VP, where this is [PD] appendix D.
    output: (*shape), the network's v.
    x_t: (*shape).
    level: of x_t.
    """
    power = jnp.square(level.alpha) + jnp.square(level.sigma)
    x_0 = ratio(level.alpha * x_t - level.sigma * output, power)
    eps = ratio(level.sigma * x_t + level.alpha * output, power)
    return Prediction(x_0, _zero_if_clean(eps, level))


def from_score(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """eps = -sigma score, x_0 = (x_t + sigma^2 score) / alpha (Tweedie's formula).

    output: (*shape), the network's score.
    x_t: (*shape).
    level: of x_t.
    Raises ValueError at alpha = 0.
    """
    _refuse_pure_noise(level, "score")
    return from_eps(-level.sigma * output, x_t, level)


def from_flow(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 = (x_t - sigma u) / (alpha + sigma), eps = (x_t + alpha u) / (alpha + sigma) for the velocity u = eps - x_0.

    The divisor is 1 on the straight path alpha = 1 - t, sigma = t of [FM].
    output: (*shape), the network's u.
    x_t: (*shape).
    level: of x_t.
    """
    total = level.alpha + level.sigma
    x_0 = ratio(x_t - level.sigma * output, total)
    return Prediction(x_0, _zero_if_clean(ratio(x_t + level.alpha * output, total), level))


def score(prediction: Prediction, level: NoiseLevel) -> Float[Array, "*shape"]:
    """score = -eps / sigma = grad_x log p(x_t), (*shape); 0 at sigma = 0.

    prediction: of x_t.
    level: of x_t.

    >>> level = gj.schedule.at(gj.schedule.karras(1, 1.0, 2.0), 1)
    >>> gj.prediction.score(gj.prediction.Prediction(jnp.zeros(2), jnp.array([1.0, -3.0])), level).tolist()
    [-0.5, 1.5]
    """
    return -ratio(prediction.eps, level.sigma)


def v(prediction: Prediction, level: NoiseLevel) -> Float[Array, "*shape"]:
    """v = alpha eps - sigma x_0, (*shape). prediction: of x_t. level: of x_t."""
    return level.alpha * prediction.eps - level.sigma * prediction.x_0


def flow(prediction: Prediction) -> Float[Array, "*shape"]:
    """u = eps - x_0, (*shape), the velocity of flow matching ([FM]). prediction: of x_t."""
    return prediction.eps - prediction.x_0


def _zero_if_clean(eps: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, "*shape"]:
    return jnp.where(is_clean(level), 0.0, eps)


def _refuse_pure_noise(level: NoiseLevel, parameterization: str) -> None:
    try:
        pure_noise = float(level.alpha) == 0
    except (jax.errors.ConcretizationTypeError, TypeError):  # traced, or a batch of levels
        return
    if pure_noise:
        raise ValueError(
            f"x_0 cannot be computed from {parameterization} at alpha = 0 (t = {float(level.t):g}); "
            "use a network that predicts x_0, v or flow, or a schedule that ends before pure noise"
        )
