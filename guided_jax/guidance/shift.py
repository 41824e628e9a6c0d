"""How a guidance moves a prediction: both views at once, each by a formula of its own.

No view is made from the other one's rounding errors, so that both keep their digits at both ends of a schedule.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


def by_score(prediction: Prediction, gradient: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """score + gradient: x_0 + sigma^2 / alpha gradient and eps - sigma gradient; nothing at alpha = 0.

    gradient: (*shape), of some log p(y | x_t) with respect to x_t, times its strength.
    """
    gradient = jnp.where(jnp.asarray(level.alpha) == 0, 0.0, gradient)  # pure noise knows nothing of y
    x_0 = prediction.x_0 + ratio(jnp.square(level.sigma), level.alpha) * gradient
    return prediction._replace(x_0=x_0, eps=prediction.eps - level.sigma * gradient)


def by_x_0(prediction: Prediction, shift: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 + shift and eps - alpha / sigma shift: the same x_t, explained by another x_0; nothing for eps at sigma = 0."""
    eps = prediction.eps - ratio(level.alpha, level.sigma) * shift
    return prediction._replace(x_0=prediction.x_0 + shift, eps=eps)


def by_difference(prediction: Prediction, towards: Prediction, away: Prediction, weight: ArrayLike) -> Prediction:
    """prediction + weight (towards - away), for x_0 and for eps: every linear guidance is made of this."""
    return prediction._replace(
        x_0=prediction.x_0 + weight * (towards.x_0 - away.x_0), eps=prediction.eps + weight * (towards.eps - away.eps)
    )
