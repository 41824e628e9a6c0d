"""A diffusion model as data, whatever its network, its condition and the space that it works in.

A condition has two forms. `raw` is the form that a user gives: a label, token ids, a low-resolution image. `condition`
is the form that the network takes, any pytree: the same label, or the states of a text encoder, computed once, before
the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from guided_jax import denoiser as denoisers
from guided_jax.denoiser import Denoiser
from guided_jax.schedule import NoiseLevel


def _same_condition(params: PyTree, raw: Any) -> Any:
    """condition = raw, for a network that takes the raw condition itself."""
    return raw


def _same_encode(params: PyTree, key: Array, image: Array) -> Array:
    """x = image, for a model of pixels."""
    return image


def _same_decode(params: PyTree, x: Array) -> Array:
    """image = x, for a model of pixels."""
    return x


def known_values(params: PyTree, raw: Any) -> Array:
    """condition = [value or 0, whether it is known], for a raw condition of K numbers of which NaN ones are not known.

    params: ignored. raw: (..., K). Returns (..., 2 K); with all numbers NaN, no condition, it is 0.

    >>> gj.model.known_values(None, jnp.array([0.5, jnp.nan])).tolist()
    [0.5, 0.0, 1.0, 0.0]
    """
    raw = jnp.asarray(raw, jnp.float32)
    known = ~jnp.isnan(raw)
    return jnp.concatenate([jnp.where(known, raw, 0), known.astype(jnp.float32)], axis=-1)


class Model(NamedTuple):
    """A network and all that sampling needs to know of it, for one example; the parameters are passed separately.

    network: (params, x_t, time, condition) -> output.
    levels: the table of noise levels that it was trained on.
    parameterization: "eps", "x_0", "v", "score" or "flow", as for `denoiser.from_network`; or "edm": the network is F of
        EDM's preconditioning (`denoiser.edm`), and `time` is ignored.
    learned_variance: whether the network returns twice the channels, the second half for the variance of a step.
    time: level -> the network's time, any pytree; t - 1 counts the noisy steps from 0, as ADM's networks do.
    shape: of x.
    condition: (params, raw) -> condition, once before the loop. By default the raw itself.
    null: the raw condition that stands for none (a label beyond the classes, the token ids of ""), or None.
    encode: (params, key, image) -> x, the image in [-1, 1]. By default the image itself.
    decode: (params, x) -> the image. By default x itself.

    >>> network = lambda params, x_t, time, label: params * x_t + label
    >>> model = gj.model.Model(network, gj.schedule.cosine(100), "x_0", shape=(2,), null=10)
    >>> model.condition(jnp.float32(0.5), 3), model.null
    (3, 10)
    """

    network: Callable[[PyTree, Array, Any, Any], Array]
    levels: NoiseLevel
    parameterization: str = "eps"
    learned_variance: bool = False
    time: Callable[[NoiseLevel], Any] = denoisers.network_time
    shape: tuple[int, ...] = ()
    condition: Callable[[PyTree, Any], Any] = _same_condition
    null: Any = None
    encode: Callable[[PyTree, Array, Array], Array] = _same_encode
    decode: Callable[[PyTree, Array], Array] = _same_decode


def denoiser(model: Model, params: PyTree, condition: Any) -> Denoiser:
    """Return the denoiser (x_t, level) -> Prediction of a model with these parameters and this condition, for one example.

    model: a `Model`.
    params: of its network, traced.
    condition: as `model.condition(params, raw)` returns it.
    Raises ValueError for an unknown parameterization, and for "edm" with a learned variance.

    >>> network = lambda params, x_t, time, label: params * x_t + label
    >>> model = gj.model.Model(network, gj.schedule.cosine(100), "x_0", shape=(2,))
    >>> params = jnp.float32(0.5)
    >>> denoise = gj.model.denoiser(model, params, model.condition(params, 3))
    >>> denoise(jnp.ones(2), gj.schedule.at(model.levels, 50)).x_0.tolist()
    [3.5, 3.5]
    """

    def network(x_t: Array, time: Any) -> Any:
        return model.network(params, x_t, time, condition)

    if model.parameterization == "edm":
        if model.learned_variance:
            raise ValueError("a model of the edm parameterization has no learned variance; set learned_variance=False")
        return denoisers.edm(network)
    return denoisers.from_network(network, model.parameterization, model.learned_variance, model.time)


def network_input(model: Model, x_t: Float[Array, "*shape"], level: NoiseLevel) -> tuple[Float[Array, "*shape"], Any]:
    """Return (x, time): what the network of a model is called with for x_t, to read more of it than its output.

    model: a `Model`. x_t: of the level. level: of x_t.
    """
    if model.parameterization == "edm":
        return denoisers.edm_input(x_t, level)
    return x_t, model.time(level)
