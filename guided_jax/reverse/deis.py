"""DEIS: Adams-Bashforth for the probability flow d(x / alpha) / d rho = eps, rho = sigma / alpha.

Source: [DEIS] Zhang & Chen 2204.13902, the variant rho-AB.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.reverse.dpm import leg
from guided_jax.reverse.multistep import (
    ORDERS,
    check_order,
    empty,
    exponential_moments,
    flat_moments,
    mix,
    nodes_of,
    remember,
)
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, is_clean


def deis(order: int = 3, as_published: bool = False) -> ReverseStep:
    """x_s = alpha_s x_0 + sigma_s eps + alpha_s (rho_s - rho_t) (mix - eps): DDIM, corrected by the last few eps.

    mix is the mean over the step of the polynomial in rho through the last `order` eps ([DEIS] rho-AB). Into the clean
    level it is DDIM.
    order: 1, 2 or 3. One call of the network a step; order 3 makes its first step with two, extrapolating x_0 linearly
        in lambda: extrapolating eps in rho, which may start at 2e4, would lead x_s far astray.
    as_published: the paper's own form, without these two changes: one call at the first step too, of order 1, and the
        polynomial into the clean level too. It is the linear multistep method "LMS" of k-diffusion. order: up to 4.
    Returns a ReverseStep.
    Raises ValueError for any other order.
    """
    check_order(order, (1, 2, 3, 4) if as_published else ORDERS)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        eps, place, stretch = prediction.eps, _rho(now), _rho(then) - _rho(now)
        history = remember(memory, eps, place)
        mean = mix(history.values, nodes_of(history.places, place, stretch), flat_moments, history.made)
        ddim = then.alpha * prediction.x_0 + then.sigma * eps
        change = mean - eps if as_published else jnp.where(is_clean(then), 0.0, mean - eps)
        x_s = ddim + then.alpha * stretch * change
        if order == 3 and not as_published:
            slope = then.alpha * exponential_moments(leg(now, then).h, 2)[1]
            first = (history.made == 1) & ~is_clean(then) & (jnp.asarray(now.alpha) > 0)
            twice = lambda x_s: x_s + slope * (denoise(x_s, then).x_0 - prediction.x_0)  # noqa: E731
            x_s = jax.lax.cond(first, twice, lambda x_s: x_s, x_s)
        return x_s, history

    return ReverseStep(lambda x_T: empty(x_T, order), step)


def _rho(level: NoiseLevel) -> Array:
    """sigma / alpha, finite where alpha is 0: the step from there is DDIM's, whatever its rho."""
    return jnp.asarray(level.sigma) / jnp.maximum(level.alpha, 1e-30)
