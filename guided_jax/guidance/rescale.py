"""Guidance without over-exposure. Source: [ZTSNR] Lin et al. 2305.08891, section 3.4."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.numerics import norm, ratio
from guided_jax.prediction import Prediction, from_eps, from_v, from_x_0, v
from guided_jax.schedule import NoiseLevel

# view -> (function that reads it from a prediction, function that makes a prediction of it). eps is not the default: x_0
# computed from eps loses its digits where alpha is small.
VIEWS: dict[str, tuple[Callable[..., Array], Callable[..., Prediction]]] = {
    "v": (v, from_v),
    "x_0": (lambda prediction, level: prediction.x_0, from_x_0),
    "eps": (lambda prediction, level: prediction.eps, from_eps),
}


def rescale(
    guide: Callable[[Denoiser], Denoiser], conditional: Denoiser, mix: ArrayLike = 0.7, view: str = "v"
) -> Denoiser:
    """g (mix std(c) / std(g) + 1 - mix): guided g gets the standard deviation of the conditional c ([ZTSNR] section 3.4).

    guide: denoiser -> denoiser, for instance `lambda c: classifier_free(c, u, 7.5)`.
    conditional: the denoiser that it is applied to, c, called once.
    mix: number or traced value, 0 changes nothing.
    view: "v", the output of the paper's networks, "x_0", or "eps", what diffusers rescales of a network that predicts eps;
        they differ, because the method is not linear.
    Returns a denoiser.
    Raises ValueError for another view.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.array([1.0, -1.0]), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.zeros(2), "x_0")
    >>> guided = gj.guidance.rescale(lambda c: gj.guidance.classifier_free(c, u, 7.5), c, mix=1.0, view="x_0")
    >>> guided(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.round(3).tolist()
    [1.0, -1.0]
    """
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}; choose one of {', '.join(VIEWS)}")
    read, make = VIEWS[view]

    def rescaled(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        plain = conditional(x_t, level)
        prediction = guide(cached(plain, x_t, level, conditional))(x_t, level)
        g, c = read(prediction, level), read(plain, level)
        factor = ratio(norm(c - jnp.mean(c)), norm(g - jnp.mean(g)), at_zero=1.0)
        made = make(g * (mix * factor + 1 - mix), x_t, level)
        return prediction._replace(x_0=made.x_0, eps=made.eps)

    return rescaled
