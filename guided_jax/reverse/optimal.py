"""The best variance of an ancestral step. Source: [ADPM] Bao et al. 2201.06503."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import diffuse, posterior, posterior_variance, step_beta
from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, at

MeanStd = Callable[[NoiseLevel], ArrayLike]  # level -> Var(x_0 | x_t), on average


def optimal_variance(spread: MeanStd) -> Callable[[Prediction, NoiseLevel, NoiseLevel], Array]:
    """beta sigma_s^2 / sigma_t^2 + (alpha_s beta / sigma_t^2)^2 Var(x_0 | x_t): ddpm(optimal_variance(spread)).

    The variance of x_s given x_t itself, where the posterior's is that given x_0 too ([ADPM] theorem 1). For normal data
    every marginal is then exact whatever the number of steps.
    spread: (level) -> Var(x_0 | x_t), scalar or (*shape): `normal_spread` or `measured_spread`.
    """

    def variance(prediction: Prediction, now: NoiseLevel, then: NoiseLevel) -> Array:
        small = posterior(prediction.x_0, prediction.x_0, now, then).variance
        share = ratio(then.alpha * step_beta(now, then), jnp.square(now.sigma))
        return small + jnp.square(share) * jnp.asarray(spread(now))

    return variance


def normal_spread(data_std: ArrayLike) -> MeanStd:
    """Var(x_0 | x_t) = s^2 sigma^2 / (alpha^2 s^2 + sigma^2) for normal data of standard deviation s."""
    return lambda level: posterior_variance(level, data_std)


def measured_spread(key, denoise: Denoiser, x_0: Float[Array, "n *shape"], levels: NoiseLevel) -> MeanStd:
    """Var(x_0 | x_t) = E (x_0 - prediction)^2, the mean over n clean examples and all elements, at every level.

    One call of the network for each of the n examples at each level. [ADPM] eq. 8 has sigma^2 / alpha^2 (1 - E eps^2), the
    same for an exact denoiser, but a small difference of large numbers where alpha is small. Returns a function of a level.
    """

    def at_level(level: NoiseLevel, key) -> Array:
        eps = jax.random.normal(key, x_0.shape, x_0.dtype)
        said = jax.vmap(lambda x, e: denoise(diffuse(x, e, level), level).x_0)(x_0, eps)
        return jnp.mean(jnp.square(x_0 - said))

    noisy = at(levels, jnp.arange(1, len(levels.t)))
    table = jax.lax.map(lambda args: at_level(*args), (noisy, jax.random.split(key, len(levels.t) - 1)))
    return lambda level: jnp.interp(level.t, levels.t, jnp.append(0.0, table))
