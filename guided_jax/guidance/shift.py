"""Shifts of a prediction, of which guidance is made: both views, x_0 and eps, each by its own formula.

Neither view is computed from the other, whose rounding errors it would take over; both keep their digits at both ends.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, is_pure_noise


def by_score(prediction: Prediction, gradient: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """score + gradient: x_0 + sigma^2 / alpha gradient and eps - sigma gradient; nothing at alpha = 0.

    prediction: of x_t.
    gradient: (*shape), of log p(y | x_t) with respect to x_t, times its strength.
    level: of x_t.
    """
    gradient = jnp.where(is_pure_noise(level), 0.0, gradient)  # pure noise is independent of y
    x_0 = prediction.x_0 + ratio(jnp.square(level.sigma), level.alpha) * gradient
    return prediction._replace(x_0=x_0, eps=prediction.eps - level.sigma * gradient)


def by_x_0(prediction: Prediction, shift: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
    """x_0 + shift and eps - alpha / sigma shift, so that alpha x_0 + sigma eps stays x_t; eps is unchanged at sigma = 0.

    prediction: of x_t.
    shift: (*shape).
    level: of x_t.
    """
    eps = prediction.eps - ratio(level.alpha, level.sigma) * shift
    return prediction._replace(x_0=prediction.x_0 + shift, eps=eps)


def by_difference(prediction: Prediction, towards: Prediction, away: Prediction, weight: ArrayLike) -> Prediction:
    """prediction + weight (towards - away), for x_0 and for eps: every linear guidance is made of this.

    prediction, towards, away: of the same x_t.
    weight: a number or traced value.
    """
    return prediction._replace(
        x_0=prediction.x_0 + weight * (towards.x_0 - away.x_0), eps=prediction.eps + weight * (towards.eps - away.eps)
    )
