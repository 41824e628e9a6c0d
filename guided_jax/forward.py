"""The forward process q and its exact posterior, for VP and VE alike.

Sources: [DDPM] Ho et al. 2006.11239, [VDM] Kingma et al. 2107.00630 (any s < t, any alpha).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.numerics import ratio, root
from guided_jax.schedule import NoiseLevel


class Normal(NamedTuple):
    """A diagonal normal law: mean (*shape), variance scalar or (*shape)."""

    mean: Float[Array, "*shape"]
    variance: Float[Array, "..."]


def diffuse(x_0: Float[Array, "*shape"], eps: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, "*shape"]:
    """x_t = alpha x_0 + sigma eps, one draw of q(x_t | x_0) ([DDPM] eq. 4).

    x_0: (*shape), clean.
    eps: (*shape), standard normal.
    level: of x_t.
    Returns x_t, (*shape).

    >>> level = gj.schedule.at(gj.schedule.karras(2, 1.0, 3.0), 2)
    >>> gj.forward.diffuse(jnp.array([0.5, -0.5]), jnp.array([1.0, 2.0]), level).tolist()
    [3.5, 5.5]
    """
    return level.alpha * x_0 + level.sigma * eps


def transition(
    x_s: Float[Array, "*shape"], eps: Float[Array, "*shape"], level_s: NoiseLevel, level_t: NoiseLevel
) -> Float[Array, "*shape"]:
    """x_t = a x_s + sqrt(sigma_t^2 - a^2 sigma_s^2) eps, a = alpha_t / alpha_s: one draw of q(x_t | x_s) ([VDM]).

    x_s: (*shape), at level_s.
    eps: (*shape), standard normal.
    level_t: one or many steps noisier.
    Returns x_t, (*shape).
    """
    return kept_share(level_t, level_s) * x_s + root(step_beta(level_t, level_s)) * eps


def posterior(x_t: Float[Array, "*shape"], x_0: Float[Array, "*shape"], now: NoiseLevel, then: NoiseLevel) -> Normal:
    """q(x_s | x_t, x_0) = N(a sigma_s^2 / sigma_t^2 x_t + alpha_s beta / sigma_t^2 x_0, beta sigma_s^2 / sigma_t^2).

    x_t, x_0: (*shape).
    now: the level t of x_t.
    then: any level s <= t; beta = sigma_t^2 - a^2 sigma_s^2, a = alpha_t / alpha_s ([VDM]; for neighbours of a VP table
        [DDPM] eq. 6-7). At then = now the law is a point at x_t.
    Returns Normal(mean (*shape), variance scalar).

    >>> levels = gj.schedule.cosine(10)
    >>> law = gj.forward.posterior(jnp.ones(2), jnp.zeros(2), gj.schedule.at(levels, 5), gj.schedule.at(levels, 0))
    >>> law.mean.tolist(), float(law.variance)  # into the clean level: x_0 itself
    ([0.0, 0.0], 0.0)
    """
    a, beta = kept_share(now, then), step_beta(now, then)
    kept = jnp.square(ratio(then.sigma, now.sigma, at_zero=1.0))
    fresh = ratio(beta, jnp.square(now.sigma))
    return Normal(a * kept * x_t + then.alpha * fresh * x_0, beta * kept)


def step_beta(now: NoiseLevel, then: NoiseLevel) -> Float[Array, ""]:
    """beta = sigma_t^2 - a^2 sigma_s^2, a = alpha_t / alpha_s: the variance that the step from s to t adds.

    now, then: the levels of t and of s. Not 1 - a^2, which is the same for VP only and loses its digits sooner.
    """
    return jnp.maximum(jnp.square(now.sigma) - jnp.square(kept_share(now, then) * then.sigma), 0.0)


def kept_share(now: NoiseLevel, then: NoiseLevel) -> Float[Array, ""]:
    """a = alpha_t / alpha_s, the factor of x_s in the step from s to t; 1 between two levels of pure noise.

    now, then: the levels of t and of s.
    """
    return ratio(now.alpha, then.alpha, at_zero=1.0)


def posterior_variance(level: NoiseLevel, data_std: ArrayLike) -> Float[Array, ""]:
    """V = s^2 sigma^2 / (alpha^2 s^2 + sigma^2): Var(x_0 | x_t) for normal data of standard deviation s.

    Not the "posterior variance" of the samplers, which is that of x_s given x_t and x_0: `posterior(...).variance`.
    level: of x_t.
    data_std: s, a number or traced value.
    """
    power = jnp.square(jnp.asarray(data_std))
    return ratio(power * jnp.square(level.sigma), jnp.square(level.alpha) * power + jnp.square(level.sigma))
