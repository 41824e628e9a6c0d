"""Guidance by an independent condition. Source: [ICG] Sadat et al. 2407.02687."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.classifier_free import classifier_free
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale


def independent(
    net: Callable[[Any], Denoiser], condition: PyTree, draw: Callable[[Array], PyTree], key: Array, scale: Scale
) -> Denoiser:
    """r + scale (c - r), r the prediction for a condition drawn independently of x_t: no null label is needed.

    net: condition -> denoiser. draw: key -> condition, for instance `lambda key: jax.random.randint(key, (), 0, 10)`.
    key: of this example, and not the one its noise is drawn from; each level draws anew from it.
    """

    def other(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        # The bits of t, which off the grid is no integer.
        step = jax.lax.bitcast_convert_type(jnp.asarray(level.t, jnp.float32), jnp.uint32)
        return net(draw(jax.random.fold_in(key, step)))(x_t, level)

    return classifier_free(net(condition), other, scale)
