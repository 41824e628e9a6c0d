"""Guidance in an interval of levels, free of cost outside it. Source: [LI] Kynkaanniemi et al. 2404.07724."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, noise_ratio


def interval(guide: Callable[[Denoiser], Denoiser], denoise: Denoiser, low: ArrayLike, high: ArrayLike) -> Denoiser:
    """guide(denoise) where low < sigma / alpha <= high, `denoise` elsewhere ([LI]).

    guide: denoiser -> denoiser, for instance `lambda c: classifier_free(c, u, 2.0)`.
    denoise: is called at every level; the other networks of the guide are called inside the interval only, by a
        `lax.cond` on the level.
    low, high: in units of EDM's sigma, numbers or traced values. Bounds that differ within a batch give the same result
        without the saving: `vmap` turns the `cond` into a `select`.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.ones_like(x_t), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.zeros_like(x_t), "x_0")
    >>> guided = gj.guidance.interval(lambda c: gj.guidance.classifier_free(c, u, 3.0), c, 0.5, 6.0)
    >>> levels = gj.schedule.karras(3, 0.1, 9.9, rho=1.0)  # sigma is 0.1, 5.0 and 9.9
    >>> [float(guided(jnp.zeros(1), gj.schedule.at(levels, i)).x_0[0]) for i in (1, 2, 3)]
    [1.0, 3.0, 1.0]
    """

    def limited(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        plain = denoise(x_t, level)
        guided, inside = guide(cached(plain, x_t, level, denoise)), is_inside(level, low, high)
        return jax.lax.cond(inside, lambda: _state_type(guided(x_t, level), plain), lambda: _state_type(plain, plain))

    return limited


def is_inside(level: NoiseLevel, low: ArrayLike, high: ArrayLike) -> Array:
    """low < sigma / alpha <= high, of a level or of each of several."""
    sigma = noise_ratio(level)
    return jnp.logical_and(low < sigma, sigma <= high)


def _state_type(prediction: Prediction, plain: Prediction) -> Prediction:
    """The prediction in float32, or float64 where `plain` is: both branches of a `cond` need the same dtypes."""
    return jax.tree.map(lambda view, like: view.astype(jnp.promote_types(like.dtype, jnp.float32)), prediction, plain)
