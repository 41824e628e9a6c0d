"""DEIS: Adams-Bashforth for the probability flow d(x / alpha) / d rho = eps, rho = sigma / alpha.

Source: [DEIS] Zhang & Chen 2204.13902, the variant rho-AB.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.reverse.dpm import nodes_of
from guided_jax.reverse.multistep import check_order, empty, flat_moments, is_clean, mix, remember
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel


def deis(order: int = 3) -> ReverseStep:
    """x_s = alpha_s x_0 + sigma_s eps + alpha_s (rho_s - rho_t) (mix - eps): DDIM, corrected by what the last eps say.

    mix is the mean over the step of the polynomial in rho through the last `order` eps ([DEIS] section 4, rho-AB). One call
    of the network a step; order 3 makes its first step with two, as `dpm_solver` does. Into the clean level it is DDIM.
    """
    check_order(order)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        eps, place, stretch = prediction.eps, _rho(now), _rho(then) - _rho(now)
        history = remember(memory, eps, place)
        mean = mix(history.values, nodes_of(history.places, place, stretch), flat_moments(order), history.made)
        ddim = then.alpha * prediction.x_0 + then.sigma * eps
        if order == 3:
            first = (history.made == 1) & ~is_clean(then) & (jnp.asarray(now.alpha) > 0)
            mean = jax.lax.cond(first, lambda mean: (eps + denoise(ddim, then).eps) / 2, lambda mean: mean, mean)
        change = jnp.where(is_clean(then), 0.0, mean - eps)
        return ddim + then.alpha * stretch * change, history

    return ReverseStep(lambda x_T: empty(x_T, order), step)


def _rho(level: NoiseLevel) -> Array:
    """sigma / alpha, finite where alpha is 0: the first step from there is DDIM's, whatever stands here."""
    return jnp.asarray(level.sigma) / jnp.maximum(level.alpha, 1e-30)
