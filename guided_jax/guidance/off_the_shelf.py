"""Guidance by a classifier, or any other criterion, of clean examples, evaluated at the predicted x_0.

log p(y | x_t) is taken to be log p(y | x_0(x_t)), which is exact for normal data and a linear criterion. The input
gradient of a ReLU network is rough: [EluCD] replaces each ReLU by softplus(beta x) / beta, beta = 3, before guiding
with the network.

Sources: [EluCD] Ma et al. 2310.11311, [MPGD] He et al. 2311.16424, [UG] Bansal et al. 2302.07121.
"""

import jax
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import posterior_variance
from guided_jax.guidance.shift import by_score, by_x_0
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb, Scale, strength


def off_the_shelf(denoise: Denoiser, log_prob: LogProb, scale: Scale, data_std: ArrayLike = 0.5) -> Denoiser:
    """x_0 + scale V grad log p(y | x_0), V = Var(x_0 | x_t) of normal data; no backward pass of the denoising network.

    The exact factor, by the chain rule, is the covariance of x_0 given x_t, for which V stands: scale 1 is right for
    normal data, where [MPGD] has a step size to tune.
    denoise: the denoiser to guide.
    log_prob: (x_0, level) -> log p(y | x_0), a scalar.
    scale: number, traced value or function of the level.
    data_std: the standard deviation of the data, a number or traced value.
    Returns a denoiser.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        gradient = jax.grad(log_prob)(prediction.x_0, level)
        return by_x_0(prediction, strength(scale, level) * posterior_variance(level, data_std) * gradient, level)

    return guided


def universal(denoise: Denoiser, log_prob: LogProb, scale: Scale) -> Denoiser:
    """score + scale grad_{x_t} log p(y | x_0(x_t)), by a backward pass of the network ([UG], forward guidance).

    denoise: the denoiser to guide.
    log_prob: (x_0, level) -> log p(y | x_0), a scalar; with `guidance.likelihood` the method is DPS with the weight of
        the likelihood.
    scale: number, traced value or function of the level.
    Returns a denoiser, of one forward and one backward pass of the network.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        def of(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, level)
            return log_prob(prediction.x_0, level), prediction

        gradient, prediction = jax.grad(of, has_aux=True)(x_t)
        return by_score(prediction, strength(scale, level) * gradient, level)

    return guided
