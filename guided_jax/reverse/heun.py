"""Heun's method for the probability flow, and EDM's stochastic sampler. Source: [EDM] Karras et al. 2206.00364."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.numerics import narrow, ratio, root
from guided_jax.reverse.step import ReverseStep, no_memory
from guided_jax.schedule import NoiseLevel, interpolate, is_clean, is_pure_noise, noise_ratio


def heun() -> ReverseStep:
    """x_s = alpha_s x_0 + sigma_s eps + alpha_s (rho_s - rho_t) (eps_s - eps) / 2, rho = sigma / alpha ([EDM] algorithm 1).

    eps_s is the prediction at the end of DDIM's step, which is Euler's step in rho. Two calls of the network a step,
    one into the clean level, and one from alpha = 0, where rho is infinite. For grids that are fine where rho is large,
    such as `grid.karras`.
    Returns a ReverseStep without memory.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.full((1, 2), 0.5), jnp.array([0.01]))
    >>> levels = gj.schedule.karras(6, 0.01, 10.0)
    >>> x_0 = gj.sampler.sample(jax.random.key(0), mixture.denoiser(), gj.reverse.heun(), 10.0 * jnp.ones(2), levels)
    >>> bool(jnp.allclose(x_0, 0.5, atol=0.1))
    True
    """

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        euler = then.alpha * prediction.x_0 + then.sigma * prediction.eps

        def corrected(x_s: Array) -> Array:
            slope = (denoise(x_s, then).eps - prediction.eps) / 2
            return x_s + (then.sigma - then.alpha * ratio(now.sigma, now.alpha)) * slope

        ends = is_clean(then) | is_pure_noise(now)
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
    """`step` after noise is added to x_t, from rho = sigma / alpha up to rho (1 + gamma) ([EDM] algorithm 2).

    step: a ReverseStep without memory.
    levels: the full table.
    churn: the paper's S_churn / N: gamma = min(churn, sqrt(2) - 1) where low <= rho <= high, else 0.
    inflate: S_noise. All four may be traced. churned(heun(), levels, 40 / num_steps, 0.05, 50, 1.003) is the paper's
        sampler for ImageNet-64.
    """

    def stirred(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        key_noise, key_step = jax.random.split(key)
        rho = noise_ratio(now)
        gamma = jnp.where((low <= rho) & (rho <= high) & (rho < jnp.inf), jnp.minimum(churn, jnp.sqrt(2.0) - 1), 0.0)
        up = interpolate(levels, -2 * jnp.log(jnp.where(gamma > 0, rho, 1.0) * (1 + gamma)))
        up = NoiseLevel(*(narrow(jnp.where(gamma > 0, u, n), rho.dtype) for u, n in zip(up, now, strict=True)))
        kept = ratio(up.alpha, now.alpha, at_zero=1.0)
        added = root(jnp.square(up.sigma) - jnp.square(kept * now.sigma))
        x_up = kept * x_t + inflate * added * jax.random.normal(key_noise, x_t.shape, x_t.dtype)
        return step.step(key_step, denoise, narrow(x_up, x_t.dtype), memory, up, then)

    return ReverseStep(step.init, stirred)
