"""Diagnostics: functions (x_t, prediction, level) -> numbers, for the argument `observe` of `sampler.sample`.

The prediction is the one that the step uses, so that observing it costs no call of a network; `guidance` alone makes a
call.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.numerics import norm, ratio
from guided_jax.prediction import Prediction
from guided_jax.prediction import score as score_of
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb

Observe = Callable[[Array, Prediction, NoiseLevel], Any]


def guidance(base: Denoiser) -> Observe:
    """{"guidance": |g|, "score": |s|, "cosine": <g, s> / (|g| |s|)}: s the score of `base`, g the guided score minus s.

    base: the denoiser before guidance. The cosine is 0 where g or s is. It costs one call of `base` a step, or none if
        `base` takes no label, when XLA merges the two calls.
    """

    def observe(x_t: Float[Array, "*shape"], prediction: Prediction, level: NoiseLevel) -> dict[str, Array]:
        score = score_of(base(x_t, level), level)
        added = score_of(prediction, level) - score
        lengths = norm(added) * norm(score)
        return {"guidance": norm(added), "score": norm(score), "cosine": ratio(jnp.sum(added * score), lengths)}

    return observe


def log_prob(log_prob: LogProb, clean: bool = False) -> Observe:
    """{"log_prob": log_prob(x_t, level)}. clean: whether log_prob is of the predicted x_0 instead of x_t."""

    def observe(x_t: Float[Array, "*shape"], prediction: Prediction, level: NoiseLevel) -> dict[str, Array]:
        return {"log_prob": log_prob(prediction.x_0 if clean else x_t, level)}

    return observe


def clipped(low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> Observe:
    """{"clipped": share of the elements of the predicted x_0 at or beyond low or high}: those that a clip changes."""

    def observe(x_t: Float[Array, "*shape"], prediction: Prediction, level: NoiseLevel) -> dict[str, Array]:
        outside = (prediction.x_0 <= low) | (prediction.x_0 >= high)
        return {"clipped": jnp.mean(outside, dtype=jnp.float32)}

    return observe


def together(*observers: Observe) -> Observe:
    """Return one dictionary of the results of all observers, functions (x_t, prediction, level) -> dictionary."""

    def observe(x_t: Float[Array, "*shape"], prediction: Prediction, level: NoiseLevel) -> dict[str, Array]:
        return {name: value for one in observers for name, value in one(x_t, prediction, level).items()}

    return observe
