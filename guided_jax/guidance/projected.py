"""Adaptive projected guidance. Source: [APG] Sadat et al. 2410.02416."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_x_0
from guided_jax.numerics import norm, ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.stateful import Stateful
from guided_jax.strength import Scale, strength


def projected(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: Scale,
    parallel: ArrayLike = 0.0,
    momentum: ArrayLike = -0.5,
    radius: ArrayLike = jnp.inf,
) -> Stateful:
    """c + (scale - 1) (d_perp + parallel d_par) in x_0, d = (c - u) + momentum d_before, |d| <= radius ([APG]).

    d_par is the part of d along c, which saturates the colours; d_perp is the rest, which adds detail.
    conditional, unconditional: denoisers, c and u.
    scale: number, traced value or function of the level. parallel (the paper's eta), momentum (beta), radius (r):
        numbers or traced values; at 1, 0 and inf it is `classifier_free`.
    Returns a `Stateful`, for `reverse.with_state`; its state is d before the limit, (*shape), zeros at first.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.array([2.0, 0.0]), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.array([1.0, -1.0]), "x_0")
    >>> guided = gj.guidance.projected(c, u, 3.0)  # c - u = (1, 1), of which (1, 0) is along c
    >>> x_t, level = jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(10), 5)
    >>> prediction, state = guided.denoise(guided.init(x_t), x_t, level)
    >>> prediction.x_0.tolist(), state.tolist()
    ([2.0, 2.0], [1.0, 1.0])
    """

    def denoise(before: Array, x_t: Float[Array, "*shape"], level: NoiseLevel) -> tuple[Prediction, Array]:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        direction = c.x_0 - u.x_0 + momentum * before
        limited = direction / jnp.maximum(1.0, norm(direction) / radius)
        along = ratio(jnp.sum(limited * c.x_0), jnp.sum(jnp.square(c.x_0))) * c.x_0
        excess = jnp.asarray(strength(scale, level)) - 1
        shift = excess * (limited - along + parallel * along)
        return by_x_0(c, shift, level), direction

    return Stateful(jnp.zeros_like, denoise)
