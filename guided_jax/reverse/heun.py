"""Heun's method for the probability flow, and EDM's stochastic sampler. Source: [EDM] Karras et al. 2206.00364."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.numerics import ratio, root
from guided_jax.reverse.step import ReverseStep, no_memory
from guided_jax.schedule import NoiseLevel, interpolate, is_clean, noise_ratio


def heun() -> ReverseStep:
    """x_s = alpha_s x_0 + sigma_s eps + alpha_s (rho_s - rho_t) (eps_s - eps) / 2, rho = sigma / alpha ([EDM] algorithm 1).

    eps_s is said at the end of DDIM's step, which is Euler's in rho. Two calls of the network a step, one into the clean
    level (and one from alpha = 0, where rho is infinite). For grids that are fine where rho is large, as `grid.karras` is.
    """

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        euler = then.alpha * prediction.x_0 + then.sigma * prediction.eps

        def corrected(x_s: Array) -> Array:
            slope = (denoise(x_s, then).eps - prediction.eps) / 2
            return x_s + (then.sigma - then.alpha * ratio(now.sigma, now.alpha)) * slope

        ends = is_clean(then) | (jnp.asarray(now.alpha) == 0)
        return jax.lax.cond(ends, lambda x_s: x_s, corrected, euler), memory

    return ReverseStep(no_memory, step)


def churned(
    step: ReverseStep,
    levels: NoiseLevel,
    churn: ArrayLike,
    low: ArrayLike = 0.0,
    high: ArrayLike = jnp.inf,
    inflate: ArrayLike = 1.0,
) -> ReverseStep:
    """Noise is added before each step, up to rho (1 + gamma), and the step goes down from there ([EDM] algorithm 2).

    churned(heun(), levels, 40 / num_steps, 0.05, 50, 1.003) is the paper's sampler for ImageNet-64. levels: the full table.
    churn: the paper's S_churn / N, gamma = min(churn, sqrt(2) - 1) where low <= sigma / alpha <= high, else 0. inflate:
    S_noise. All may be traced. Steps that remember nothing only.
    """

    def stirred(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        key_noise, key_step = jax.random.split(key)
        rho = noise_ratio(now)
        gamma = jnp.where((low <= rho) & (rho <= high) & (rho < jnp.inf), jnp.minimum(churn, jnp.sqrt(2.0) - 1), 0.0)
        up = interpolate(levels, -2 * jnp.log(jnp.where(gamma > 0, rho, 1.0) * (1 + gamma)))
        up = NoiseLevel(*(jnp.where(gamma > 0, there, here) for there, here in zip(up, now, strict=True)))
        kept = ratio(up.alpha, now.alpha, at_zero=1.0)
        added = root(jnp.square(up.sigma) - jnp.square(kept * now.sigma))
        x_up = kept * x_t + inflate * added * jax.random.normal(key_noise, x_t.shape, x_t.dtype)
        return step.step(key_step, denoise, x_up, memory, up, then)

    return ReverseStep(step.init, stirred)
