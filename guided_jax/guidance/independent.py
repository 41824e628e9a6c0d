"""Guidance by an independent condition. Source: [ICG] Sadat et al. 2407.02687."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PyTree

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser
from guided_jax.guidance.classifier_free import classifier_free
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, fold_in
from guided_jax.strength import Scale


def independent(
    net: Callable[[Any], Denoiser], condition: PyTree, draw: Callable[[Array], PyTree], key: Array, scale: Scale
) -> Denoiser:
    """r + scale (c - r), r the prediction for a condition drawn independently of x_t: no null label is needed.

    net: condition -> denoiser.
    condition: of c.
    draw: key -> condition, for instance `lambda key: jax.random.randint(key, (), 0, 10)`.
    key: a JAX key, of this example, other than the one of its noise; each level draws a condition anew.
    scale: number, traced value or function of the level.
    """
    check_key(key)

    def other(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return net(draw(fold_in(key, level)))(x_t, level)

    return classifier_free(net(condition), other, scale)
