"""The optimal variance of an ancestral step. Source: [ADPM] Bao et al. 2201.06503."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser
from guided_jax.forward import diffuse, posterior, posterior_variance, step_beta
from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, at

Spread = Callable[[NoiseLevel], ArrayLike]  # level -> Var(x_0 | x_t), on average


def optimal_variance(spread: Spread) -> Callable[[Prediction, NoiseLevel, NoiseLevel], Array]:
    """beta sigma_s^2 / sigma_t^2 + (alpha_s beta / sigma_t^2)^2 Var(x_0 | x_t): ddpm(optimal_variance(spread)).

    The variance of x_s given x_t; the posterior variance is that given x_t and x_0 ([ADPM] theorem 1). For normal data
    every marginal is then exact, whatever the number of steps.
    spread: level -> Var(x_0 | x_t), scalar or (*shape): `normal_spread` or `estimated_spread`.
    Returns a `variance` for `ddpm`.
    """

    def variance(prediction: Prediction, now: NoiseLevel, then: NoiseLevel) -> Array:
        small = posterior(prediction.x_0, prediction.x_0, now, then).variance
        share = ratio(then.alpha * step_beta(now, then), jnp.square(now.sigma))
        return small + jnp.square(share) * jnp.asarray(spread(now))

    return variance


def normal_spread(data_std: ArrayLike) -> Spread:
    """Var(x_0 | x_t) = s^2 sigma^2 / (alpha^2 s^2 + sigma^2) for normal data of standard deviation s.

    data_std: s, a number or traced value.
    Returns level -> Var(x_0 | x_t).
    """
    return lambda level: posterior_variance(level, data_std)


def estimated_spread(key, denoise: Denoiser, x_0: Float[Array, "n *shape"], levels: NoiseLevel) -> Spread:
    """Var(x_0 | x_t) = E (x_0 - prediction)^2, estimated on data: the mean over n clean examples and all elements.

    key: a JAX key.
    denoise: (x_t, level) -> Prediction.
    x_0: (n, *shape).
    levels: the table of the run. One call of the network for each example at each level. [ADPM] has sigma^2 /
        alpha^2 (1 - E eps^2), which is the same for an exact denoiser, but a small difference of large numbers where
        alpha is small.
    Returns level -> Var(x_0 | x_t).
    """
    check_key(key)

    def at_level(level: NoiseLevel, key) -> Array:
        eps = jax.random.normal(key, x_0.shape, x_0.dtype)
        predicted = jax.vmap(lambda x, e: denoise(diffuse(x, e, level), level).x_0)(x_0, eps)
        return jnp.mean(jnp.square(x_0 - predicted))

    noisy = at(levels, jnp.arange(1, len(levels.t)))
    table = jax.lax.map(lambda args: at_level(*args), (noisy, jax.random.split(key, len(levels.t) - 1)))
    return lambda level: jnp.interp(level.t, levels.t, jnp.append(0.0, table))
