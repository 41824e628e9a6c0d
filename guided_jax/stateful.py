"""Stateful guidance: a denoiser whose prediction depends on the steps before, such as one with momentum.

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

    init: (x_T) -> state, a pytree of arrays.
    denoise: (state, x_t, level) -> (Prediction, state).
    """

    init: Callable[[Array], Any]
    denoise: Callable[[Any, Array, NoiseLevel], tuple[Prediction, Any]]


def stateless(denoise: Denoiser) -> Stateful:
    """Return denoise as a `Stateful` whose state is ()."""
    return Stateful(lambda x_T: (), lambda state, x_t, level: (denoise(x_t, level), state))


def frozen(stateful: Stateful, state: Any) -> Denoiser:
    """Return the denoiser (x_t, level) -> Prediction that `stateful` is at a fixed state."""

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return stateful.denoise(state, x_t, level)[0]

    return denoise


def first_state(stateful: Stateful) -> Denoiser:
    """Return the denoiser that `stateful` is on its first step: the method without memory, for a sampler without state."""

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return stateful.denoise(stateful.init(x_t), x_t, level)[0]

    return denoise


def lift(guide: Callable[[Denoiser], Denoiser], stateful: Stateful) -> Stateful:
    """guide(stateful): a stateless guidance on top of a stateful one, whose state it does not change.

    guide: denoiser -> denoiser, for instance `clip`.
    Returns a `Stateful`.
    """

    def denoise(state: Any, x_t: Float[Array, "*shape"], level: NoiseLevel) -> tuple[Prediction, Any]:
        prediction, updated = stateful.denoise(state, x_t, level)
        return guide(cached(prediction, x_t, level, frozen(stateful, state)))(x_t, level), updated

    return Stateful(stateful.init, denoise)
