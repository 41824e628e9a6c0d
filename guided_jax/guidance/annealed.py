"""Condition annealing: noise in the condition at the start of a run. Source: [CADS] Sadat et al. 2310.17347.

For variety at a high scale: while the picture takes shape, the condition is hidden behind noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser
from guided_jax.numerics import ratio, root
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel, fold_in


def annealed(
    net: Callable[[Any], Denoiser],
    condition: PyTree,
    key: Array,
    num_steps: ArrayLike,
    std: ArrayLike = 0.25,
    low: ArrayLike = 0.6,
    high: ArrayLike = 0.9,
    mix: ArrayLike = 1.0,
) -> Denoiser:
    """net(sqrt(g) y + std sqrt(1 - g) n) for a condition y, n normal, g falling from 1 to 0 as the noise grows ([CADS]).

    g is 1 for t / T <= low, 0 for t / T >= high, and linear between. The noisy condition is a mix of itself and of itself
    with the mean and the standard deviation of y, each over all elements of an array of the condition.
    net: condition -> denoiser, for instance `lambda y: model.denoiser(made, params, y)`.
    condition: y, a pytree of arrays of floats: states of a text encoder, vectors, the embedding of a class. NaN stays NaN,
        as where a text has no token, and does not count.
    key: a JAX key, of this example, other than the one of its noise; each level draws n anew.
    num_steps: T, the last t of the table, a number or traced value.
    std, low, high, mix: numbers or traced values, low < high. std is the paper's s, for conditions of a standard deviation
        of about 1; mix is its psi, 1 for the mean and deviation of y, 0 for those of the noisy condition.
    Returns a denoiser, to be guided as that of the condition itself: classifier_free(annealed(net, y, ...), u, scale).
    Raises ValueError for a condition of integers, such as a label.

    >>> net = lambda y: gj.denoiser.from_network(lambda x_t, time: x_t + jnp.sum(y), "x_0")
    >>> denoise = gj.guidance.annealed(net, jnp.array([1.0, 2.0]), jax.random.key(0), num_steps=10)
    >>> levels = gj.schedule.cosine(10)
    >>> denoise(jnp.zeros(1), gj.schedule.at(levels, 5)).x_0.tolist()  # below 0.6 T it is the condition itself
    [3.0]
    """
    check_key(key)
    for leaf in jax.tree.leaves(condition):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"the condition is of {jnp.result_type(leaf)}, which takes no noise; give its embedding")

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        share = jnp.clip((high - level.t / num_steps) / (jnp.asarray(high) - low), 0.0, 1.0)
        leaves, structure = jax.tree.flatten(condition)
        keys = jax.random.split(fold_in(key, level), len(leaves))
        noisy = [_noisy(y, one, share, std, mix) for y, one in zip(leaves, keys, strict=True)]
        return net(jax.tree.unflatten(structure, noisy))(x_t, level)

    return denoise


def _noisy(y: Array, key: Array, share: Array, std: ArrayLike, mix: ArrayLike) -> Array:
    """mix (mean(y) + std(y) (h - mean(h)) / std(h)) + (1 - mix) h, h = sqrt(share) y + std sqrt(1 - share) n."""
    y = jnp.asarray(y)
    wide = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    h = jnp.sqrt(share) * wide + std * jnp.sqrt(1 - share) * jax.random.normal(key, y.shape, wide.dtype)
    spread = ratio(root(jnp.nanvar(wide)), root(jnp.nanvar(h)))
    like_y = jnp.nanmean(wide) + spread * (h - jnp.nanmean(h))
    return jnp.where(share < 1, mix * like_y + (1 - mix) * h, wide).astype(y.dtype)
