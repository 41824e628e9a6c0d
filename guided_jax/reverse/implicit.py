"""DDIM: predict, then run the forward process to the next level; Euler's method is the same.

Sources: [DDIM] Song et al. 2010.02502, [EDM] Karras et al. 2206.00364.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.forward import Normal, posterior
from guided_jax.numerics import root
from guided_jax.reverse.step import ReverseStep, from_law, is_stochastic, no_memory
from guided_jax.schedule import NoiseLevel


def ddim(eta: ArrayLike = 0.0) -> ReverseStep:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std noise, std = eta sqrt(posterior variance) ([DDIM] eq. 12, 16).

    eta: number or traced value; 0 is the deterministic sampler, 1 equals ddpm("small"). With the posterior variance it
        is right for VP and VE.
    Returns a ReverseStep without memory.
    Raises ValueError for an eta that is not one number.

    >>> step, level = gj.reverse.ddim(), lambda sigma: gj.schedule.NoiseLevel(1.0, 1.0, sigma)
    >>> denoise = lambda x_t, level: gj.prediction.from_x_0(jnp.zeros_like(x_t), x_t, level)
    >>> x_s, _ = step.step(jax.random.key(0), denoise, jnp.array([2.0, -4.0]), (), level(2.0), level(1.0))
    >>> x_s.tolist()
    [1.0, -2.0]
    """
    check_number("eta", eta)

    def law(denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        if not is_stochastic(eta):
            return Normal(then.alpha * prediction.x_0 + then.sigma * prediction.eps, jnp.zeros(())), memory
        std = eta * root(posterior(x_t, prediction.x_0, now, then).variance)
        direction = root(jnp.square(then.sigma) - jnp.square(std))
        return Normal(then.alpha * prediction.x_0 + direction * prediction.eps, jnp.square(std)), memory

    return from_law(no_memory, law, is_stochastic(eta))


def euler() -> ReverseStep:
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) eps, rho = sigma / alpha: Euler's step of the probability flow.

    It equals alpha_s x_0 + sigma_s eps: another name of ddim(0) ([EDM]).
    Returns a ReverseStep without memory.
    """
    return ddim(0.0)


def euler_ancestral(eta: ArrayLike = 1.0) -> ReverseStep:
    """Euler's step to rho_down, then noise rho_up: rho_up^2 = eta^2 rho_s^2 (1 - rho_s^2 / rho_t^2) = rho_s^2 - rho_down^2.

    Another name of ddim(eta): the posterior variance at alpha = 1 is rho_up^2.
    eta: number or traced value.
    """
    return ddim(eta)
