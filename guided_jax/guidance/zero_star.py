"""CFG-Zero*. Source: [CFG-Zero*] Fan et al. 2503.18886."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction, flow, from_flow
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def zero_star(conditional: Denoiser, unconditional: Denoiser, scale: Scale, zero_from: ArrayLike = jnp.inf) -> Denoiser:
    """a u + scale (c - a u) for the flow velocity eps - x_0, a = <c, u> / |u|^2; 0 where t >= zero_from.

    a is the least-squares fit of u to c, of this example alone ([CFG-Zero*]).
    conditional, unconditional: denoisers, with the velocities c and u.
    scale: number, traced value or function of the level; 1 is the conditional model, 0 is a u.
    zero_from: the paper's zero-init as a step t, number or traced value: the first velocity of a run may be worse than
        none.
    Returns a denoiser.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        first = conditional(x_t, level)
        c, u = flow(first), flow(unconditional(x_t, level))
        fitted = ratio(jnp.sum(c * u), jnp.sum(jnp.square(u))) * u
        velocity = jnp.where(level.t >= zero_from, 0.0, fitted + strength(scale, level) * (c - fitted))
        return from_flow(velocity, x_t, level)._replace(variance_fraction=first.variance_fraction)

    return guided
