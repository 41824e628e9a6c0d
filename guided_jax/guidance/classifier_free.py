"""Classifier-free guidance, and what is the same formula with other denoisers.

Sources: [CFG] Ho & Salimans 2207.12598, [AG] Karras et al. 2406.02507.
"""

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: Scale) -> Denoiser:
    """u + scale (c - u), for x_0 and for eps ([CFG] eq. 6 with its w = scale - 1).

    unconditional: the model without the label, or with a negative one, which is then steered away from.
    scale: number, traced value, or function of the level; 0 is the unconditional model, 1 the conditional one.
    The variance_fraction is the conditional model's.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        return by_difference(u, c, u, strength(scale, level))._replace(variance_fraction=c.variance_fraction)

    return guided


def autoguidance(good: Denoiser, bad: Denoiser, scale: Scale) -> Denoiser:
    """bad + scale (good - bad): a model guided by a worse version of itself, of the same condition ([AG]).

    bad: a smaller or less trained network, or the same one perturbed (`models.perturbation`), where the papers
    count from 1: perturbed-attention's s is scale - 1. scale: 1 is the good model alone.
    """
    return classifier_free(good, bad, scale)
