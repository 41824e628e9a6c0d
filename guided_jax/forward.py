"""The forward process q and its exact posterior, for VP and VE alike.

Sources: [DDPM] Ho et al. 2006.11239, [VDM] Kingma et al. 2107.00630 appendix A (any s < t, any alpha).
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
    """x_t = alpha x_0 + sigma eps, one draw of q(x_t | x_0) ([DDPM] eq. 4)."""
    return level.alpha * x_0 + level.sigma * eps


def transition(
    x_s: Float[Array, "*shape"], eps: Float[Array, "*shape"], level_s: NoiseLevel, level_t: NoiseLevel
) -> Float[Array, "*shape"]:
    """x_t = a x_s + sqrt(sigma_t^2 - a^2 sigma_s^2) eps, a = alpha_t / alpha_s: q(x_t | x_s) ([VDM] eq. 21-22)."""
    return kept_share(level_t, level_s) * x_s + root(step_beta(level_t, level_s)) * eps


def posterior(x_t: Float[Array, "*shape"], x_0: Float[Array, "*shape"], now: NoiseLevel, then: NoiseLevel) -> Normal:
    """q(x_s | x_t, x_0) = N(a sigma_s^2 / sigma_t^2 x_t + alpha_s beta / sigma_t^2 x_0, beta sigma_s^2 / sigma_t^2).

    `now` is the level t of x_t, `then` any level s <= t; beta = sigma_t^2 - a^2 sigma_s^2 ([VDM] eq. 25-29; for
    neighbours of a VP table [DDPM] eq. 6-7). At then = now it is a point at x_t.
    """
    a, beta = kept_share(now, then), step_beta(now, then)
    kept = jnp.square(ratio(then.sigma, now.sigma, at_zero=1.0))
    fresh = ratio(beta, jnp.square(now.sigma))
    return Normal(a * kept * x_t + then.alpha * fresh * x_0, beta * kept)


def step_beta(now: NoiseLevel, then: NoiseLevel) -> Float[Array, ""]:
    """beta = sigma_t^2 - a^2 sigma_s^2, the variance that the step from s to t adds.

    Never 1 - a^2, which is the same for VP only (and loses its digits sooner).
    """
    return jnp.maximum(jnp.square(now.sigma) - jnp.square(kept_share(now, then) * then.sigma), 0.0)


def kept_share(now: NoiseLevel, then: NoiseLevel) -> Float[Array, ""]:
    """a = alpha_t / alpha_s, what a step keeps of x_s; 1 between two levels of pure noise: staying at one adds nothing."""
    return ratio(now.alpha, then.alpha, at_zero=1.0)


def posterior_variance(level: NoiseLevel, data_std: ArrayLike) -> Float[Array, ""]:
    """V = s^2 sigma^2 / (alpha^2 s^2 + sigma^2): Var(x_0 | x_t) for normal data of standard deviation s."""
    power = jnp.square(jnp.asarray(data_std))
    return ratio(power * jnp.square(level.sigma), jnp.square(level.alpha) * power + jnp.square(level.sigma))
