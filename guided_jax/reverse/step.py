"""The type of every sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import Normal
from guided_jax.numerics import is_zero, root
from guided_jax.schedule import NoiseLevel

Law = Callable[..., tuple[Normal, Any]]  # (denoise, x_t, memory, now, then) -> (law of x_s, memory)


class ReverseStep(NamedTuple):
    """A step over an interval of the schedule, for one example.

    init: (x_T) -> memory, a pytree of arrays of fixed shapes and types; () for a method without memory.
    step: (key, denoise, x_t, memory, now, then) -> (x_s, memory); `now` is the level of x_t, `then` that of x_s. A
        method may call the denoiser once or several times, and keep its predictions in the memory. The key is for this
        step alone: under vmap its noise depends on the batch for JAX's "rbg" keys, and not for the default ones.
    law: (denoise, x_t, memory, now, then) -> (Normal, memory), where `step` draws x_s from a normal law given x_t and the
        memory; None where it does not, or draws nothing. `particles` weighs examples by it.
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Array, Any]]
    law: Law | None = None


def from_law(init: Callable[[Array], Any], law: Law, noisy: bool = True) -> ReverseStep:
    """x_s = mean + sqrt(variance) noise: the ReverseStep that draws from its law, or returns its mean.

    init: of the ReverseStep.
    law: (denoise, x_t, memory, now, then) -> (Normal, memory), with variance 0 where the step draws nothing.
    noisy: False to return the mean, without drawing noise.
    """

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        normal, memory = law(denoise, x_t, memory, now, then)
        if not noisy:
            return normal.mean, memory
        return normal.mean + root(normal.variance) * jax.random.normal(key, x_t.shape, x_t.dtype), memory

    return ReverseStep(init, step, law if noisy else None)


def is_stochastic(eta: ArrayLike) -> bool:
    """Return whether noise has to be drawn: not for an eta that is the number 0, whose noise would be multiplied by 0."""
    return not is_zero(eta)


def no_memory(x_T: Array) -> tuple[()]:
    """(): the memory of a one-step method, whatever x_T."""
    return ()
