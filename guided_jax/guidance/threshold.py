"""Keeping the predicted clean example inside the range of the data. Source: [Imagen] Saharia et al. 2205.11487."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import Prediction, from_x_0
from guided_jax.schedule import NoiseLevel


def clip(denoise: Denoiser, low: float | Array = -1.0, high: float | Array = 1.0) -> Denoiser:
    """x_0 clipped to [low, high], eps recomputed from it; variance_fraction is kept ([DDPM]'s and ADM's default)."""

    def clipped(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        x_0 = jnp.clip(prediction.x_0, low, high)
        return prediction._replace(x_0=x_0, eps=from_x_0(x_0, x_t, level).eps)

    return clipped


def dynamic_threshold(denoise: Denoiser, quantile: ArrayLike = 0.995, limit: ArrayLike = 1.0) -> Denoiser:
    """x_0 clipped to [-q, q] times limit / q, q = max(limit, quantile of |x_0|); eps recomputed ([Imagen] section 2.3).

    For data in [-limit, limit]. quantile: in [0, 1], over all the elements of this one example, number or traced value.
    q has no upper bound: one of `limit`, a default elsewhere, would make this a plain clip.
    """

    def thresholded(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        reach = jnp.maximum(jnp.quantile(jnp.abs(prediction.x_0), quantile), limit)
        x_0 = jnp.clip(prediction.x_0, -reach, reach) * (limit / reach)
        return prediction._replace(x_0=x_0, eps=from_x_0(x_0, x_t, level).eps)

    return thresholded
