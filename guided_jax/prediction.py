"""One prediction carries both views of a noisy example: its clean part x_0 and its noise eps.

Whatever a network was trained to say (eps, x_0, v, the score, a flow velocity), these functions turn it into the same
`Prediction`, and every guidance and every sampler reads from that the view which is well conditioned where it works.

Two ends of the schedule are special. At sigma = 0 nothing is noise: eps = score = 0. At alpha = 0 nothing of x_0 is left
in x_t, so an eps or a score says nothing about it and is refused: a ValueError where the level is known, NaN where it is
traced (`sampler.sample` looks before it compiles).

Sources: [DDPM] Ho et al. 2006.11239 eq. 15, [PD] Salimans & Ho 2202.00512 appendix D, [FM] Lipman et al. 2210.02747.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.numerics import ratio
from guided_jax.schedule import NoiseLevel


class Prediction(NamedTuple):
    """What a denoiser says of x_t: E[x_0 | x_t] and E[eps | x_t], both (*shape).

    variance_fraction, if the network learned it, is where the step's log variance lies between the posterior variance
    (0) and beta (1), per element ([iDDPM] eq. 15).
    """

    x_0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]
    variance_fraction: Float[Array, "..."] | None = None


def from_eps(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 = (x_t - sigma eps) / alpha ([DDPM] eq. 15). Raises ValueError at alpha = 0."""
    _refuse_pure_noise(level, "eps")
    return Prediction(ratio(x_t - level.sigma * output, level.alpha, at_zero=jnp.nan), _zero_if_clean(output, level))


def from_x_0(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """eps = (x_t - alpha x_0) / sigma."""
    return Prediction(output, ratio(x_t - level.alpha * output, level.sigma))


def from_v(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2), eps = (sigma x_t + alpha v) / (alpha^2 + sigma^2).

    The divisor is 1 for VP, where this is [PD] appendix D.
    """
    power = jnp.square(level.alpha) + jnp.square(level.sigma)
    x_0 = ratio(level.alpha * x_t - level.sigma * output, power)
    eps = ratio(level.sigma * x_t + level.alpha * output, power)
    return Prediction(x_0, _zero_if_clean(eps, level))


def from_score(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """eps = -sigma score, x_0 = (x_t + sigma^2 score) / alpha (Tweedie). Raises ValueError at alpha = 0."""
    _refuse_pure_noise(level, "score")
    return from_eps(-level.sigma * output, x_t, level)


def from_flow(output: Float[Array, "*shape"], x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 = (x_t - sigma u) / (alpha + sigma), eps = (x_t + alpha u) / (alpha + sigma) for the velocity u = eps - x_0.

    The divisor is 1 on the straight path alpha = 1 - t, sigma = t of [FM].
    """
    total = level.alpha + level.sigma
    x_0 = ratio(x_t - level.sigma * output, total)
    return Prediction(x_0, _zero_if_clean(ratio(x_t + level.alpha * output, total), level))


def score(prediction: Prediction, level: NoiseLevel) -> Float[Array, "*shape"]:
    """score = -eps / sigma = grad_x log p(x_t); 0 at sigma = 0."""
    return -ratio(prediction.eps, level.sigma)


def v(prediction: Prediction, level: NoiseLevel) -> Float[Array, "*shape"]:
    """v = alpha eps - sigma x_0."""
    return level.alpha * prediction.eps - level.sigma * prediction.x_0


def _zero_if_clean(eps: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, "*shape"]:
    return jnp.where(jnp.asarray(level.sigma) == 0, 0.0, eps)


def _refuse_pure_noise(level: NoiseLevel, parameterization: str) -> None:
    try:
        pure_noise = float(level.alpha) == 0
    except (jax.errors.ConcretizationTypeError, TypeError):  # traced, or a batch of levels
        return
    if pure_noise:
        raise ValueError(
            f"a network of the {parameterization} parameterization says nothing at alpha = 0 (t = {float(level.t):g}); "
            "use x_0, v or flow, or a schedule that ends before pure noise"
        )
