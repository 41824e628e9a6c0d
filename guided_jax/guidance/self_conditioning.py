"""Self-conditioning: a network that takes its own last x_0. Source: [BitD] Chen et al. 2208.04202, algorithm 2."""

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
    """make(estimate)(x_t), where estimate is the x_0 predicted at the step before, zeros at the first step.

    make: estimate (*shape) -> the guided denoiser, all of whose networks take the same estimate: both of a
        classifier-free pair take the x_0 of the pair. It may return a `Stateful`, such as `projected`, whose own state
        is carried along.
    low, high: bounds to which the estimate is clipped, the same as in training (`losses.first_estimate`).
    Returns a `Stateful`, for `reverse.with_state`.
    """

    def conditioned(estimate: Array) -> Stateful:
        made = make(estimate)
        return made if isinstance(made, Stateful) else stateless(made)

    def init(x_T: Array) -> tuple[Array, Any]:
        zeros = jnp.zeros_like(x_T)
        return zeros, conditioned(zeros).init(x_T)

    def denoise(
        state: tuple[Array, Any], x_t: Float[Array, "*shape"], level: NoiseLevel
    ) -> tuple[Prediction, tuple[Array, Any]]:
        estimate, own = state
        prediction, own = conditioned(estimate).denoise(own, x_t, level)
        return prediction, (jnp.clip(prediction.x_0, low, high).astype(estimate.dtype), own)

    return Stateful(init, denoise)
