"""Ancestral sampling guided by a classifier of clean examples. Source: [EluCD] Ma et al. 2310.11311."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from guided_jax.forward import posterior
from guided_jax.prediction import Prediction
from guided_jax.reverse.ancestral import Variance, shifted
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb, Scale, strength


def off_the_shelf_ddpm(
    log_prob: LogProb, scale: Scale, levels: NoiseLevel, gamma: ArrayLike = 0.3, variance: Variance = "small"
) -> ReverseStep:
    """mean + scale (variance + gamma max_t variance sin(pi t / T)) grad log p(y | x_0), at the predicted x_0 ([EluCD]).

    No backward pass of the denoising network.
    log_prob: (x_0, level) -> log p(y | x_0), such as `guidance.from_logits` with the paper's temperatures 1.0 and 0.5.
    scale: number, traced value or function of the level.
    levels: the table of the run; T is its last t.
    gamma: number or traced value; the sine adds guidance in the middle of a run, where the variance of a step is small.
    variance: as for `ddpm`.
    Returns a ReverseStep, for an unguided denoiser.
    """
    peak = jnp.max(_posterior_variances(levels))

    def shift(
        mean: Array, variance: Array, prediction: Prediction, x_t: Array, now: NoiseLevel, then: NoiseLevel
    ) -> Array:
        weight = variance + gamma * peak * jnp.sin(jnp.pi * now.t / levels.t[-1])
        return mean + strength(scale, now) * weight * jax.grad(log_prob)(prediction.x_0, now)

    return shifted(variance, shift)


def _posterior_variances(levels: NoiseLevel) -> Array:
    """The posterior variance of each step down the table, (T,)."""
    now, then = NoiseLevel(*(column[1:] for column in levels)), NoiseLevel(*(column[:-1] for column in levels))
    return jax.vmap(lambda now, then: posterior(jnp.zeros(()), jnp.zeros(()), now, then).variance)(now, then)
