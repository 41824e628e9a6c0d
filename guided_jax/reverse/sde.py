"""The reverse SDE, discretized as its forward one is. Source: [SDE] Song et al. 2011.13456."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.forward import Normal, kept_share, step_beta
from guided_jax.numerics import root
from guided_jax.prediction import score
from guided_jax.reverse.step import ReverseStep, from_law, is_stochastic, no_memory
from guided_jax.schedule import NoiseLevel, is_clean


def reverse_sde(eta: ArrayLike = 1.0) -> ReverseStep:
    """x_s = (2 - a) x_t + (1 + eta^2) / 2 beta score + eta sqrt(beta) noise, a = alpha_t / alpha_s ([SDE] eq. 46, 47).

    The reverse diffusion sampler of [SDE]: an Euler-Maruyama step in the discretization of the forward process. For
    small steps only, and down only, not for `sampler.encode`; `ddpm` and `dpm_solver(eta=1)` are exact in more. The last
    step returns the predicted x_0.
    eta: number or traced value; 0 is the probability flow.
    Returns a ReverseStep without memory.
    """
    check_number("eta", eta)

    def law(denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction, beta = denoise(x_t, now), step_beta(now, then)
        drift = (1 + jnp.square(eta)) / 2 * beta * score(prediction, now)
        mean = (2 - kept_share(now, then)) * x_t + drift
        variance = jnp.where(is_clean(then), 0.0, jnp.square(eta * root(beta)))
        return Normal(jnp.where(is_clean(then), prediction.x_0, mean), variance), memory

    return from_law(no_memory, law, is_stochastic(eta))
