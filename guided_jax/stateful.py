"""Guidance that remembers: what a denoiser is when its answer depends on the steps before.

`reverse.with_state` carries the state through a run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


class Stateful(NamedTuple):
    """A denoiser with a state, for one example.

    init: (x_T) -> state, a pytree of arrays. denoise: (state, x_t, level) -> (Prediction, state).
    """

    init: Callable[[Array], Any]
    denoise: Callable[[Any, Array, NoiseLevel], tuple[Prediction, Any]]


def stateless(denoise: Denoiser) -> Stateful:
    """Any denoiser as a `Stateful` that remembers nothing."""
    return Stateful(lambda x_T: (), lambda state, x_t, level: (denoise(x_t, level), state))


def frozen(stateful: Stateful, state: Any) -> Denoiser:
    """The denoiser that a `Stateful` is while its state stays this one."""

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return stateful.denoise(state, x_t, level)[0]

    return denoise


def first_state(stateful: Stateful) -> Denoiser:
    """The denoiser that a `Stateful` is on its first step: the method without its memory, and so with any sampler."""

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return stateful.denoise(stateful.init(x_t), x_t, level)[0]

    return denoise


def lift(guide: Callable[[Denoiser], Denoiser], stateful: Stateful) -> Stateful:
    """guide(stateful): any denoiser -> denoiser, `clip` for one, on top of a `Stateful`; the state goes its own way."""

    def denoise(state: Any, x_t: Float[Array, "*shape"], level: NoiseLevel) -> tuple[Prediction, Any]:
        prediction, updated = stateful.denoise(state, x_t, level)
        return guide(cached(prediction, x_t, level, frozen(stateful, state)))(x_t, level), updated

    return Stateful(stateful.init, denoise)
