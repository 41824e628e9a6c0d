"""Magnitude-aware guidance, MAMBO-G. Source: [MAMBO-G] Zhu et al. 2508.03442."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference
from guided_jax.numerics import norm, ratio
from guided_jax.prediction import Prediction, flow
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def magnitude_aware(conditional: Denoiser, unconditional: Denoiser, scale: Scale, damping: ArrayLike = 8.0) -> Denoiser:
    """u + w (c - u), w = 1 + (scale - 1) exp(-damping |c - u| / |u|), the norms of the flow velocity eps - x_0 ([MAMBO-G]).

    Guidance is weak while it would move x far, as in the first steps of a run, and has its whole scale later.
    conditional, unconditional: denoisers, c and u.
    scale: number, traced value or function of the level; 1 is the conditional model.
    damping: the paper's alpha, number or traced value; at 0 it is `classifier_free`.
    Returns a denoiser, with the variance_fraction of the conditional one. The norms are those of one example, of the
        velocity that the paper's models predict; diffusers takes them of whatever a network returns.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.array([0.0, 2.0]), "flow")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.array([0.0, 1.0]), "flow")
    >>> level = gj.schedule.at(gj.schedule.flow(10), 5)
    >>> guided = gj.guidance.magnitude_aware(c, u, 3.0, damping=jnp.log(2.0))(jnp.zeros(2), level)  # |c - u| = |u|: w = 2
    >>> (guided.eps - guided.x_0).round(4).tolist()
    [0.0, 3.0]
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        moved = ratio(norm(flow(c) - flow(u)), norm(flow(u)))
        weight = 1 + (jnp.asarray(strength(scale, level)) - 1) * jnp.exp(-jnp.asarray(damping) * moved)
        return by_difference(u, c, u, weight)._replace(variance_fraction=c.variance_fraction)

    return guided
