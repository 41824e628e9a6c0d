"""Guidance of some of the channels alone. Source: the code published with [DiT] Peebles & Xie 2212.09748."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


def channels(guide: Callable[[Denoiser], Denoiser], denoise: Denoiser, count: int) -> Denoiser:
    """[guide(denoise) in the first `count` channels, denoise in the others].

    The published samples of [DiT], and of the models that followed it, guide 3 of their 4 channels.
    guide: denoiser -> denoiser, for instance `lambda c: classifier_free(c, u, 4.0)`.
    denoise: the denoiser that it is applied to, called once.
    count: of the channels, the last axis of x; at least 1.
    Returns a denoiser.
    Raises ValueError for a count that is less than 1 or more than there are.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.ones_like(x_t), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.zeros_like(x_t), "x_0")
    >>> guided = gj.guidance.channels(lambda c: gj.guidance.classifier_free(c, u, 4.0), c, count=3)
    >>> guided(jnp.zeros(4), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.tolist()
    [4.0, 4.0, 4.0, 1.0]
    """

    def partly(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        if not 1 <= count <= x_t.shape[-1]:
            raise ValueError(f"count is {count}, and x has {x_t.shape[-1]} channels; give a number from 1 to that")
        plain = denoise(x_t, level)
        guided = guide(cached(plain, x_t, level, denoise))(x_t, level)
        x_0, eps = (
            jnp.concatenate([view[..., :count], rest[..., count:]], axis=-1)
            for view, rest in ((guided.x_0, plain.x_0), (guided.eps, plain.eps))
        )
        return guided._replace(x_0=x_0, eps=eps)

    return partly
