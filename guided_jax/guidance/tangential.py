"""Tangential damping classifier-free guidance. Source: [TCFG] Kwon et al. 2503.18137.

Deviations. The paper takes a singular value decomposition of the 2 x D matrix [c; u]; its first right-singular vector is
a combination of c and u by the first eigenvector of their 2 x 2 Gram matrix, which has a closed form. diffusers
applies the method to whatever a network returns, and its guider asks for the attribute `_num_outputs_prepared`, which there
is not, as soon as its `is_conditional` is read.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference, by_score
from guided_jax.numerics import ratio, root
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def tangential(conditional: Denoiser, unconditional: Denoiser, scale: Scale) -> Denoiser:
    """u' + scale (c - u') in eps, u' = <u, v> v the part of u along v, the first right-singular vector of [c; u] ([TCFG]).

    What u has across v, and so hardly in common with c, is left out. x_0 follows from eps.
    conditional, unconditional: denoisers, c and u.
    scale: number, traced value or function of the level; 1 is the conditional model, 0 is u'.
    Returns a denoiser, with the variance_fraction of the conditional one.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.array([2.0, 0.0]), "eps")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.array([0.0, 1.0]), "eps")
    >>> guided = gj.guidance.tangential(c, u, 3.0)  # v is (1, 0), and u has nothing along it
    >>> guided(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(10), 5)).eps.tolist()
    [6.0, 0.0]
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        damped = _damped(c, u, level)
        made = by_difference(damped, c, damped, strength(scale, level))
        return made._replace(variance_fraction=c.variance_fraction)

    return guided


def _damped(c: Prediction, u: Prediction, level: NoiseLevel) -> Prediction:
    """u' = (cos a c + (1 - sin a) u) / 2, a the angle of (2 <c, u>, |c|^2 - |u|^2), in eps.

    Computed as u + cos a / 2 (c - u) - across u, across = (1 - cos a + sin a) / 2: both views take the difference of two
    predictions of the same x_t; the multiple of eps moves x_0 as a score does.
    """
    along = 2 * jnp.sum(c.eps * u.eps)
    longer = jnp.sum((c.eps - u.eps) * (c.eps + u.eps))  # |c|^2 - |u|^2, to all digits where they are nearly the same
    length = root(jnp.square(along) + jnp.square(longer))
    cos, sin = ratio(along, length, at_zero=1.0), ratio(longer, length)
    across = (1 - cos + sin) / 2
    return by_score(by_difference(u, c, u, cos / 2), ratio(across * u.eps, level.sigma), level)
