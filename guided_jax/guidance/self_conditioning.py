"""A network that is told its own last x_0. Source: [BitD] Chen et al. 2208.04202 section 2.2 and algorithm 2."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.stateful import Stateful, stateless


def self_conditioned(
    make: Callable[[Array], Denoiser | Stateful], low: ArrayLike = -1.0, high: ArrayLike = 1.0
) -> Stateful:
    """make(x_0 predicted at the step before)(x_t), zeros at the first step.

    make: estimate (*shape) -> the whole guided denoiser, every network in it told the same estimate: of a classifier-free
    pair both are told what the pair together predicted. What it makes may remember more of its own, as `projected` does.
    low, high: the estimate is clipped to them, as it was in training (`losses.first_estimate`).
    """

    def told(estimate: Array) -> Stateful:
        made = make(estimate)
        return made if isinstance(made, Stateful) else stateless(made)

    def init(x_T: Array) -> tuple[Array, Any]:
        nothing = jnp.zeros_like(x_T)
        return nothing, told(nothing).init(x_T)

    def denoise(
        state: tuple[Array, Any], x_t: Float[Array, "*shape"], level: NoiseLevel
    ) -> tuple[Prediction, tuple[Array, Any]]:
        estimate, own = state
        prediction, own = told(estimate).denoise(own, x_t, level)
        return prediction, (jnp.clip(prediction.x_0, low, high).astype(estimate.dtype), own)

    return Stateful(init, denoise)
