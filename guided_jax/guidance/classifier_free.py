"""Classifier-free guidance, and autoguidance: the same formula with other denoisers.

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

    conditional: the denoiser with the label, c.
    unconditional: the denoiser without it, u, or with a negative label, to steer away from.
    scale: number, traced value, or function of the level; 0 is the unconditional model, 1 the conditional one.
    Returns a denoiser, with the variance_fraction of the conditional one.
    Raises ValueError, when called, for a scale that is not one number: jax.vmap gives each example its own.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.ones_like(x_t), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.zeros_like(x_t), "x_0")
    >>> level = gj.schedule.at(gj.schedule.cosine(10), 5)
    >>> gj.guidance.classifier_free(c, u, 3.0)(jnp.zeros(2), level).x_0.tolist()
    [3.0, 3.0]
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        return by_difference(u, c, u, strength(scale, level))._replace(variance_fraction=c.variance_fraction)

    return guided


def autoguidance(good: Denoiser, bad: Denoiser, scale: Scale) -> Denoiser:
    """bad + scale (good - bad): a model guided by a worse version of itself, of the same condition ([AG]).

    good: a denoiser.
    bad: of a smaller or less trained network, or of the same one perturbed (`models.perturbation`).
    scale: 1 is the good model alone; the s of perturbed-attention guidance is scale - 1.
    Returns a denoiser.

    >>> good = gj.denoiser.from_network(lambda x_t, time: 2 * jnp.ones_like(x_t), "x_0")
    >>> bad = gj.denoiser.from_network(lambda x_t, time: jnp.ones_like(x_t), "x_0")
    >>> gj.guidance.autoguidance(good, bad, 2.0)(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.tolist()
    [3.0, 3.0]
    """
    return classifier_free(good, bad, scale)
