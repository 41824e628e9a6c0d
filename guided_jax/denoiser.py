"""A denoiser is a function (x_t, level) -> Prediction of one example: the one type that everything here speaks.

Sources: [EDM] Karras et al. 2206.00364, [iDDPM] Nichol & Dhariwal 2102.09672.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax import prediction
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel

Denoiser = Callable[[Float[Array, "*shape"], NoiseLevel], Prediction]
Network = Callable[[Array, Array], Array]

PARAMETERIZATIONS = {
    "eps": prediction.from_eps,
    "x_0": prediction.from_x_0,
    "v": prediction.from_v,
    "score": prediction.from_score,
    "flow": prediction.from_flow,
}


def network_time(level: NoiseLevel) -> Float[Array, "*levels"]:
    """t - 1: networks of the ADM kind count the noisy steps from 0."""
    return level.t - 1


def from_network(
    network: Network,
    parameterization: str = "eps",
    learned_variance: bool = False,
    time: Callable[[NoiseLevel], Array] = network_time,
) -> Denoiser:
    """Prediction(x_t) = from_<parameterization>(network(x_t, time(level))).

    network: (x_t, time) -> output, one example, closing over its (traced) parameters and label.
    parameterization: "eps", "x_0", "v", "score" or "flow".
    learned_variance: the network gives twice the channels (last axis); the second half v in [-1, 1] becomes
    variance_fraction = (v + 1) / 2 ([iDDPM] eq. 15).
    Raises ValueError for an unknown parameterization or an output of the wrong shape.
    """
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"unknown parameterization {parameterization!r}; choose one of {', '.join(PARAMETERIZATIONS)}")
    convert = PARAMETERIZATIONS[parameterization]

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        output = network(x_t, time(level))
        if not learned_variance:
            _check_shape(output, x_t.shape)
            return convert(output, x_t, level)
        _check_shape(output, (*x_t.shape[:-1], 2 * x_t.shape[-1]))
        mean, variance = jnp.split(output, 2, axis=-1)
        return convert(mean, x_t, level)._replace(variance_fraction=(variance + 1) / 2)

    return denoise


def edm(network: Network, sigma_data: float = 0.5) -> Denoiser:
    """D(x; s) = c_skip x + c_out F(c_in x; ln(s) / 4) with s = sigma / alpha and x = x_t / alpha ([EDM] table 1, eq. 7).

    network: F, (scaled x_t, c_noise) -> output, one example. Written in alpha and sigma so that VP levels, alpha = 0 and
    sigma = 0 are right too. sigma_data: the standard deviation of the data.
    """

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        alpha, sigma = jnp.asarray(level.alpha), jnp.asarray(level.sigma)
        tiny = jnp.finfo(alpha.dtype).tiny
        power = jnp.sqrt(jnp.square(sigma) + jnp.square(alpha * sigma_data))
        c_noise = (jnp.log(jnp.maximum(sigma, tiny)) - jnp.log(jnp.maximum(alpha, tiny))) / 4
        output = network(x_t / power, c_noise)
        _check_shape(output, x_t.shape)
        x_0 = (sigma_data / power) ** 2 * alpha * x_t + sigma * sigma_data / power * output
        return prediction.from_x_0(x_0, x_t, level)

    return denoise


def cached(prediction: Prediction, x_t: Float[Array, "*shape"], level: NoiseLevel, denoise: Denoiser) -> Denoiser:
    """The prediction where the question is this very x_t and level, `denoise` where it is another.

    How one call is shared. XLA merges two identical calls only while nothing in them is loop-invariant: the look-up of a
    label's embedding is moved out of the sampling loop twice, and what is left of the two calls no longer looks the same.
    It is the same array object that is asked for, not an equal one: the x_t of a derivative or of a vmap is another object,
    and so is answered by the denoiser itself, never by a constant.
    """

    def answer(x: Float[Array, "*shape"], at: NoiseLevel) -> Prediction:
        return prediction if x is x_t and at is level else denoise(x, at)

    return answer


def from_batched(network: Callable[..., Array]) -> Callable[..., Array]:
    """network(x[None], time[None], ...)[0]: one example of a foreign network that wants a batch axis."""

    def single(*args: ArrayLike) -> Array:
        return network(*(jnp.asarray(argument)[None] for argument in args))[0]

    return single


def _check_shape(output: Array, shape: tuple[int, ...]) -> None:
    if output.shape != tuple(shape):
        raise ValueError(
            f"the network returned shape {output.shape} where {tuple(shape)} was expected; "
            "learned_variance=True stands for twice the channels, and networks are called on one example"
        )
