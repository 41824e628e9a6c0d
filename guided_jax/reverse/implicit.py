"""DDIM: predict, then run the forward process to the next level. Source: [DDIM] Song et al. 2010.02502."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import posterior, root
from guided_jax.reverse.step import ReverseStep, no_memory
from guided_jax.schedule import NoiseLevel


def ddim(eta: ArrayLike = 0.0) -> ReverseStep:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std noise, std = eta sqrt(posterior variance) ([DDIM] eq. 12, 16).

    eta: number or traced value; 0 is the deterministic sampler, 1 equals ddpm("small"). The posterior's variance makes
    it right for VP and VE.
    """
    deterministic = isinstance(eta, (int, float)) and eta == 0  # spares drawing noise that is multiplied by 0

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        if deterministic:
            return then.alpha * prediction.x_0 + then.sigma * prediction.eps, memory
        std = eta * root(posterior(x_t, prediction.x_0, now, then).variance)
        direction = root(jnp.square(then.sigma) - jnp.square(std))
        noise = jax.random.normal(key, x_t.shape, x_t.dtype)
        return then.alpha * prediction.x_0 + direction * prediction.eps + std * noise, memory

    return ReverseStep(no_memory, step)
