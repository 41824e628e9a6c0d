"""Internal guidance: away from what a head in the middle of the same network says, in one call.

Source: [IG] Zhou et al. 2512.24176.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.guidance.classifier_free import autoguidance
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale

Pair = Callable[[Array, NoiseLevel], tuple[Prediction, Prediction]]  # (x_t, level) -> (good, bad), of one call


def two_heads(make: Callable[[Callable[..., Array]], Denoiser], network: Callable[..., Array]) -> Pair:
    """Return (x_t, level) -> the predictions of both halves of a network's output, by one call of the network.

    make: network -> denoiser, such as `lambda network: from_network(network, "v")`; it calls the network once.
    network: what `make` takes, but with twice the channels (last axis): the output of the last head, then that of the inner
        one, as `models.UNet` returns them with both_heads=True.
    """

    def pair(x_t: Float[Array, "*shape"], level: NoiseLevel) -> tuple[Prediction, Prediction]:
        outputs: list[Array] = []

        def last(*given: Any) -> Array:
            outputs.extend(jnp.split(network(*given), 2, axis=-1))
            return outputs[0]

        return make(last)(x_t, level), make(lambda *given: outputs[1])(x_t, level)

    return pair


def internal(pair: Pair, scale: Scale) -> Denoiser:
    """bad + scale (good - bad), good of the last head and bad of one in the middle, both of one call ([IG]).

    pair: (x_t, level) -> (good, bad), as `two_heads` makes it.
    scale: number, traced value or function of the level; 1 is the good head alone.
    Returns a denoiser, with the variance_fraction of the good head.

    >>> network = lambda x_t, time: jnp.concatenate([2 * jnp.ones_like(x_t), jnp.ones_like(x_t)], axis=-1)
    >>> pair = gj.guidance.two_heads(lambda network: gj.denoiser.from_network(network, "x_0"), network)
    >>> gj.guidance.internal(pair, 3.0)(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.tolist()
    [4.0, 4.0]
    """
    return of_pair(pair, lambda good, bad: autoguidance(good, bad, scale))


def of_pair(pair: Pair, guide: Callable[[Denoiser, Denoiser], Denoiser]) -> Denoiser:
    """guide(good, bad), with one call of the pair.

    pair: (x_t, level) -> (good, bad).
    guide: two denoisers -> denoiser, which calls them at the same x_t and level.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        good, bad = pair(x_t, level)
        first = cached(good, x_t, level, lambda x, level: pair(x, level)[0])
        second = cached(bad, x_t, level, lambda x, level: pair(x, level)[1])
        return guide(first, second)(x_t, level)

    return guided
