"""The one contract of every sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array


class ReverseStep(NamedTuple):
    """A step over an interval of the schedule, for one example.

    init: (x_T) -> memory, a pytree; () for a method that remembers nothing.
    step: (key, denoise, x_t, memory, now, then) -> (x_s, memory); `now` is the level of x_t, `then` of x_s. It receives
    the denoiser, so a method may call it once, twice, or keep what it said. The key is for this step alone.
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Array, Any]]


def no_memory(x_T: Array) -> tuple[()]:
    """(): the memory of a one-step method."""
    return ()
