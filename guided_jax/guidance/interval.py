"""Guidance at some levels only, and nothing paid for it at the others. Source: [LI] Kynkaanniemi et al. 2404.07724."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, noise_ratio


def interval(guide: Callable[[Denoiser], Denoiser], denoise: Denoiser, low: ArrayLike, high: ArrayLike) -> Denoiser:
    """guide(denoise) where low < sigma / alpha <= high, `denoise` elsewhere ([LI]).

    guide: what to do inside, for instance `lambda c: classifier_free(c, u, 2.0)`; `denoise` is called once, all else that
    the guide calls only inside: a `lax.cond` on the level. low, high: in EDM's sigma, numbers or traced values. Bounds that
    differ within a batch stay right but skip nothing: `vmap` makes a `select` of the `cond`.
    """

    def limited(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        plain = denoise(x_t, level)
        sigma = noise_ratio(level)
        inside = jnp.logical_and(low < sigma, sigma <= high)
        guided = guide(cached(plain, x_t, level, denoise))
        return jax.lax.cond(inside, lambda: _float32(guided(x_t, level)), lambda: _float32(plain))

    return limited


def _float32(prediction: Prediction) -> Prediction:
    """Both branches of a `cond` have to agree in their dtypes, and a scale makes float32 of less."""
    return jax.tree.map(lambda view: view.astype(jnp.promote_types(view.dtype, jnp.float32)), prediction)
