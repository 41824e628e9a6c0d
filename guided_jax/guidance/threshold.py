"""Keeping the predicted clean example inside the range of the data."""

import jax.numpy as jnp
from jaxtyping import Array, Float

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
