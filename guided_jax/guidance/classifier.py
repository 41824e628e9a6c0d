"""Classifier guidance, by a classifier of noisy examples. Source: [ADM] Dhariwal & Nichol 2105.05233, algorithm 2."""

import jax
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_score
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb, Scale, strength


def classifier(denoise: Denoiser, log_prob: LogProb, scale: Scale) -> Denoiser:
    """eps - scale sigma g and x_0 + scale sigma^2 / alpha g, with g = grad_x log p(y | x_t) ([ADM] algorithm 2).

    denoise: the denoiser to guide.
    log_prob: (x_t, level) -> log p(y | x_t), a scalar, from a classifier trained on noisy examples.
    scale: number, traced value, or function of the level; 0 ignores the label, 1 is the exact conditional. On a
        conditional denoiser a scale s is classifier-free guidance at 1 + s.
    Returns a denoiser. At alpha = 0 the shift is 0, as x_t is independent of y. As in [ADM], a clip of `denoise` is not
        repeated.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
    >>> guided = gj.guidance.classifier(mixture.denoiser(), mixture.log_prob(1), 1.0)
    >>> x_t, level = jnp.array([0.2]), gj.schedule.at(gj.schedule.cosine(1000), 700)
    >>> bool(jnp.allclose(guided(x_t, level).x_0, mixture.denoiser(1)(x_t, level).x_0, atol=1e-4))  # Bayes' rule
    True
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return by_score(denoise(x_t, level), strength(scale, level) * jax.grad(log_prob)(x_t, level), level)

    return guided
