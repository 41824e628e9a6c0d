"""A network that was told the scale in training guides in one call. Source: [GD] Meng et al. 2210.03142."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def distilled(net: Callable[[Array], Denoiser], scale: Scale) -> Denoiser:
    """net(scale(level))(x_t, level): the guided prediction, in one call ([GD] section 3.1).

    net: scale -> denoiser, of a network that `losses.teach` has trained, with its condition.
    scale: number, traced value, or function of the level: so an interval (`limited`) and a ramp are inputs of the network
        as well, though it was trained at constant scales alone. A guided prediction depends on the scale at its level only.
    Returns a denoiser.

    >>> net = lambda scale: gj.denoiser.from_network(lambda x_t, time: scale * jnp.ones_like(x_t), "x_0")
    >>> level = gj.schedule.at(gj.schedule.cosine(10), 5)
    >>> gj.guidance.distilled(net, lambda level: level.t / 2)(jnp.zeros(2), level).x_0.tolist()
    [2.5, 2.5]
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return net(jnp.asarray(strength(scale, level), jnp.float32))(x_t, level)

    return guided
