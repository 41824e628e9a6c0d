"""Inverse problems: steps around any sampler that draw x_0 given a measurement y.

Sources: [DPS] Chung et al. 2209.14687, [RePaint] Lugmayr et al. 2201.09865.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.forward import diffuse, transition
from guided_jax.numerics import narrow_like, norm
from guided_jax.operators import Operator
from guided_jax.prediction import Prediction
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, is_pure_noise
from guided_jax.strength import Scale, strength


def dps(step: ReverseStep, operator: Operator, y: Float[Array, "..."], scale: Scale = 1.0) -> ReverseStep:
    """x_s = step(x_t) - scale grad_{x_t} |y - A x_0(x_t)|, by a backward pass of the network ([DPS] algorithm 1).

    The norm, not its square: the gradient of the square divided by the length of the residual of this example alone. An
    approximation: the samples do not follow the posterior (`guidance.pigdm` does, for normal data).
    step: a ReverseStep.
    operator: A, of `operators`.
    y: the measurement, of this example.
    scale: the paper's zeta, number, traced value or function of the level `now`; 0.3 to 1 for 1000 DDPM steps, more for
        fewer steps, as each step moves by it.
    Returns a ReverseStep with the memory of `step`.
    """

    def guided(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        def residual(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, now)
            return norm(y - operator.forward(prediction.x_0)), prediction

        gradient, prediction = jax.grad(residual, has_aux=True)(x_t)
        x_s, memory = step.step(key, cached(prediction, x_t, now, denoise), x_t, memory, now, then)
        gradient = jnp.where(is_pure_noise(now), 0.0, gradient)
        return x_s - strength(scale, now) * gradient, memory

    return ReverseStep(step.init, guided)


def repaint(step: ReverseStep, observed: Array, x_0: Float[Array, "*shape"], repeats: int = 10) -> ReverseStep:
    """x_s = noised x_0 where observed, step(x_t) elsewhere; noised back to x_t and repeated ([RePaint] algorithm 1).

    step: a ReverseStep.
    observed: 1 (or True) where x_0 is known, (*shape) or broadcasting to it.
    x_0: (*shape), of this example.
    repeats: steps at each level, the paper's U, at least 1; the painted part fits the known one only after several.
    Returns a ReverseStep with the memory of `step`.
    Raises ValueError for repeats below 1.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> step = gj.reverse.repaint(gj.reverse.ddpm(), jnp.array([True, False]), jnp.array([0.7, 0.0]), repeats=2)
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> round(float(gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, jnp.ones(2), levels)[0]), 3)
    0.7
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; every level needs at least one step")

    def painted(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        def once(carry, key):
            x, _, _ = carry
            key_step, key_known, key_back = jax.random.split(key, 3)
            x_s, kept = step.step(key_step, denoise, x, memory, now, then)
            noised = diffuse(x_0, jax.random.normal(key_known, x.shape, x.dtype), then)
            everywhere = jnp.zeros_like(x_s)  # on a mesh a choice needs both sides, and its condition, placed as x_s
            x_s = jnp.where(observed + everywhere != 0, noised + everywhere, x_s)
            back = transition(x_s, jax.random.normal(key_back, x.shape, x.dtype), then, now)
            return narrow_like((back, x_s, kept), carry), None

        (_, x_s, kept), _ = jax.lax.scan(once, (x_t, x_t, memory), jax.random.split(key, repeats))
        return x_s, kept

    return ReverseStep(step.init, painted)


def blend(
    step: ReverseStep, observed: Array, x_0: Float[Array, "*shape"], eps: Float[Array, "*shape"], end: ArrayLike = 0.0
) -> ReverseStep:
    """x_s = alpha_s x_0 + sigma_s eps where observed, step(x_t) elsewhere, with the same eps at every step.

    How pipelines of latent diffusion paint into a picture without a network that was trained for it: cheaper than
    `repaint`, and the painted part fits the known one less well. The last step takes x_0 itself.
    step: a ReverseStep.
    observed: 1 (or True) where x_0 is known, (*shape) or broadcasting to it.
    x_0: (*shape), of this example.
    eps: (*shape), the noise that the run begins with.
    end: t of the level at which the run ends, where that is not the clean one.
    Returns a ReverseStep with the memory of `step`.
    """

    def blended(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x_s, memory = step.step(key, denoise, x_t, memory, now, then)
        noised = jnp.where(then.t <= end, x_0, diffuse(x_0, eps, then))
        everywhere = jnp.zeros_like(x_s)
        return jnp.where(observed + everywhere != 0, noised + everywhere, x_s), memory

    return ReverseStep(step.init, blended)
