"""A diffusion model as data, whatever its network, its condition and the space that it works in.

    model = Model(network, schedule.cosine(1000), shape=(32, 32, 3), null=10)
    denoise = denoiser(model, params, model.condition(params, 3))

What a model is told goes through two forms. `raw` is what a user gives: a label, token ids, a low-resolution image.
`condition` is what the network takes, any pytree: the label again, or the states of a text encoder, which are computed
once, before the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, PyTree

from guided_jax import denoiser as denoisers
from guided_jax.denoiser import Denoiser
from guided_jax.schedule import NoiseLevel


def _same_condition(params: PyTree, raw: Any) -> Any:
    """condition = raw: a label, or whatever else the network itself takes."""
    return raw


def _same_encode(params: PyTree, key: Array, image: Array) -> Array:
    """x = image: the model works on pixels."""
    return image


def _same_decode(params: PyTree, x: Array) -> Array:
    """image = x: the model works on pixels."""
    return x


class Model(NamedTuple):
    """What there is to know of a diffusion model, for one example; its parameters are passed beside it, never inside.

    network: (params, x_t, time, condition) -> output. condition: any pytree.
    levels: the table of noise levels that it was trained on.
    parameterization: "eps", "x_0", "v", "score" or "flow", as of `denoiser.from_network`, or "edm": the network is F of
        EDM's preconditioning (`denoiser.edm`), and `time` is not read.
    learned_variance: whether the network returns twice the channels, the second half for the variance of a step.
    time: level -> the network's time, any pytree; t - 1 counts the noisy steps from 0, as ADM's networks do.
    shape: of x.
    condition: (params, raw) -> condition, once before the loop. By default the raw itself.
    null: the raw that stands for no condition (a label beyond the classes, the token ids of ""); None where there is none.
    encode: (params, key, image) -> x, the image in [-1, 1]. By default the image itself.
    decode: (params, x) -> the image. By default x itself.
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
    """Return the denoiser that the model is with these parameters and this condition, for one example.

    condition: what the network takes, as `model.condition(params, raw)` returns it.
    Raises ValueError for an unknown parameterization, and for "edm" with a learned variance.
    """

    def network(x_t: Array, time: Any) -> Any:
        return model.network(params, x_t, time, condition)

    if model.parameterization == "edm":
        if model.learned_variance:
            raise ValueError("a model of the edm parameterization has no learned variance; set learned_variance=False")
        return denoisers.edm(network)
    return denoisers.from_network(network, model.parameterization, model.learned_variance, model.time)
