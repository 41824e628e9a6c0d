"""Classifier-free guidance. Source: [CFG] Ho & Salimans 2207.12598."""

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.strength import Scale, strength
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: Scale) -> Denoiser:
    """u + scale (c - u), for x_0 and for eps ([CFG] eq. 6 with its w = scale - 1).

    scale: number, traced value, or function of the level; 0 is the unconditional model, 1 the conditional one.
    The variance_fraction is the conditional model's.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        s = strength(scale, level)
        return c._replace(x_0=u.x_0 + s * (c.x_0 - u.x_0), eps=u.eps + s * (c.eps - u.eps))

    return guided
