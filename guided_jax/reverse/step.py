"""The type of every sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, ArrayLike

from guided_jax.numerics import is_zero


class ReverseStep(NamedTuple):
    """A step over an interval of the schedule, for one example.

    init: (x_T) -> memory, a pytree of arrays of fixed shapes and types; () for a method without memory.
    step: (key, denoise, x_t, memory, now, then) -> (x_s, memory); `now` is the level of x_t, `then` that of x_s. A
        method may call the denoiser once or several times, and keep its predictions in the memory. The key is for this
        step alone: under vmap its noise depends on the batch for JAX's "rbg" keys, and not for the default ones.
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Array, Any]]


def is_stochastic(eta: ArrayLike) -> bool:
    """Return whether noise has to be drawn: not for an eta that is the number 0, whose noise would be multiplied by 0."""
    return not is_zero(eta)


def no_memory(x_T: Array) -> tuple[()]:
    """(): the memory of a one-step method, whatever x_T."""
    return ()
