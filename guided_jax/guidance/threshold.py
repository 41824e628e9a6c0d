"""Thresholds that keep the predicted x_0 in the range of the data. Source: [Imagen] Saharia et al. 2205.11487."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import Prediction, from_x_0
from guided_jax.schedule import NoiseLevel


def clip(denoise: Denoiser, low: float | Array = -1.0, high: float | Array = 1.0) -> Denoiser:
    """x_0 clipped to [low, high], eps = (x_t - alpha x_0) / sigma; the default of DDPM and ADM.

    denoise: a denoiser, guided or not.
    low, high: the range of the data, numbers, traced values or arrays that broadcast to x.
    Returns a denoiser with the variance_fraction of `denoise`.

    >>> denoise = gj.denoiser.from_network(lambda x_t, time: jnp.array([-3.0, 0.5, 2.0]), "x_0")
    >>> gj.guidance.clip(denoise)(jnp.zeros(3), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.tolist()
    [-1.0, 0.5, 1.0]
    """

    def clipped(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        x_0 = jnp.clip(prediction.x_0, low, high)
        return prediction._replace(x_0=x_0, eps=from_x_0(x_0, x_t, level).eps)

    return clipped


def dynamic_threshold(denoise: Denoiser, quantile: ArrayLike = 0.995, limit: ArrayLike = 1.0) -> Denoiser:
    """x_0 clipped to [-q, q] times limit / q, q = max(limit, quantile of |x_0|); eps recomputed ([Imagen] section 2.3).

    denoise: a denoiser, guided or not.
    quantile: in [0, 1], over all the elements of this one example, number or traced value.
    limit: of the data, which lie in [-limit, limit].
    Returns a denoiser. q has no upper bound; with the bound `limit`, the default of other libraries, the method would
        be a plain clip.

    >>> denoise = gj.denoiser.from_network(lambda x_t, time: jnp.array([-4.0, 0.0, 2.0]), "x_0")
    >>> thresholded = gj.guidance.dynamic_threshold(denoise, quantile=1.0)
    >>> thresholded(jnp.zeros(3), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.tolist()
    [-1.0, 0.0, 0.5]
    """

    def thresholded(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        reach = jnp.maximum(jnp.quantile(jnp.abs(prediction.x_0), quantile), limit)
        x_0 = jnp.clip(prediction.x_0, -reach, reach) * (limit / reach)
        return prediction._replace(x_0=x_0, eps=from_x_0(x_0, x_t, level).eps)

    return thresholded
