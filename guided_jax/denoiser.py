"""A denoiser is a function (x_t, level) -> Prediction of one example: guidance and samplers take and return nothing else.

Sources: [EDM] Karras et al. 2206.00364, [iDDPM] Nichol & Dhariwal 2102.09672.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from guided_jax import prediction
from guided_jax.checks import check_output, check_tree
from guided_jax.numerics import narrow, widen
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

HINT = "; learned_variance=True stands for twice the channels, and networks are called on one example"


def network_time(level: NoiseLevel) -> Float[Array, "*levels"]:
    """t - 1 of a level or a table: networks of the ADM kind count the noisy steps from 0."""
    return level.t - 1


def from_network(
    network: Network,
    parameterization: str = "eps",
    learned_variance: bool = False,
    time: Callable[[NoiseLevel], Array] = network_time,
) -> Denoiser:
    """Prediction(x_t) = from_<parameterization>(network(x_t, time(level))).

    network: (x_t, time) -> output, one example, closing over its (traced) parameters and label.
    parameterization: what the output is: "eps", "x_0", "v", "score" or "flow". A score is as large as 1 / sigma: let the
        network compute numbers of size 1, and return them divided by sigma, which time=lambda level: level gives it.
    learned_variance: whether the network returns twice the channels (last axis); the second half v in [-1, 1] becomes
        variance_fraction = (v + 1) / 2 ([iDDPM] eq. 15).
    time: level -> the network's time, any pytree; t - 1 by default.
    Returns a denoiser, of predictions in float32 at least: guidance would multiply the rounding of a half-precision output.
    Raises ValueError for an unknown parameterization, and for an output that is not one array of the shape of x_t.

    >>> denoise = gj.denoiser.from_network(lambda x_t, time: 0.5 * x_t, "v")
    >>> prediction = denoise(jnp.ones((4, 4, 1)), gj.schedule.at(gj.schedule.cosine(10), 5))
    >>> prediction.x_0.shape, prediction.eps.shape
    ((4, 4, 1), (4, 4, 1))
    """
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"unknown parameterization {parameterization!r}; choose one of {', '.join(PARAMETERIZATIONS)}")
    convert = PARAMETERIZATIONS[parameterization]

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        output = network(x_t, time(level))
        if not learned_variance:
            check_output(output, x_t.shape, HINT)
            return convert(widen(output), x_t, level)
        check_output(output, (*x_t.shape[:-1], 2 * x_t.shape[-1]), HINT)
        mean, variance = jnp.split(widen(output), 2, axis=-1)
        return convert(mean, x_t, level)._replace(variance_fraction=(variance + 1) / 2)

    return denoise


def edm(network: Network, sigma_data: float = 0.5) -> Denoiser:
    """D(x; s) = c_skip x + c_out F(c_in x; ln(s) / 4) with s = sigma / alpha and x = x_t / alpha ([EDM] table 1, eq. 7).

    network: F, (scaled x_t, c_noise) -> output, one example.
    sigma_data: the standard deviation of the data.
    Returns a denoiser; written in alpha and sigma, it is right for VP levels, at alpha = 0 and at sigma = 0 too.
    Raises ValueError for an output that is not one array of the shape of x_t.

    >>> denoise = gj.denoiser.edm(lambda x, c_noise: jnp.zeros_like(x), sigma_data=0.5)
    >>> level = gj.schedule.at(gj.schedule.karras(1, 0.5, 0.5), 1)  # sigma = sigma_data: half of x_t is signal
    >>> denoise(jnp.array([1.0, -2.0]), level).x_0.round(3).tolist()
    [0.5, -1.0]
    """

    def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        alpha, sigma = jnp.asarray(level.alpha), jnp.asarray(level.sigma)
        power = _edm_power(level, sigma_data)
        output = network(*edm_input(x_t, level, sigma_data))
        check_output(output, x_t.shape, HINT)
        x_0 = (sigma_data / power) ** 2 * alpha * x_t + sigma * sigma_data / power * output
        return prediction.from_x_0(x_0, x_t, level)

    return denoise


def edm_input(
    x_t: Float[Array, "*shape"], level: NoiseLevel, sigma_data: float = 0.5
) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
    """(c_in x, ln(s) / 4): the arguments of the network inside `edm`, of unit variance, and finite at both ends.

    x_t: of the level. level: of x_t. sigma_data: the standard deviation of the data.
    """
    alpha, sigma = jnp.asarray(level.alpha), jnp.asarray(level.sigma)
    tiny = jnp.finfo(alpha.dtype).tiny
    c_noise = (jnp.log(jnp.maximum(sigma, tiny)) - jnp.log(jnp.maximum(alpha, tiny))) / 4
    return x_t / _edm_power(level, sigma_data), c_noise


def _edm_power(level: NoiseLevel, sigma_data: float) -> Float[Array, ""]:
    """The standard deviation of x_t."""
    return jnp.sqrt(jnp.square(jnp.asarray(level.sigma)) + jnp.square(level.alpha * sigma_data))


def cached(prediction: Prediction, x_t: Float[Array, "*shape"], level: NoiseLevel, denoise: Denoiser) -> Denoiser:
    """Return the cached prediction when called with the same x_t and level objects; call `denoise` otherwise.

    prediction: denoise(x_t, level), computed before. So one call of the network serves a guidance and a sampler. XLA
        merges two identical calls only while nothing in them is loop-invariant: it moves the look-up of a label's
        embedding out of the sampling loop twice, and the rests of the two calls then differ. The test is for the same
        objects, not for equal values: under a derivative or a vmap x_t is another object, so `denoise` is called and
        differentiated, and no constant takes its place.
    """

    def lookup(x: Float[Array, "*shape"], at: NoiseLevel) -> Prediction:
        return prediction if x is x_t and at is level else denoise(x, at)

    return lookup


def match_type(denoise: Denoiser) -> Denoiser:
    """Return denoise with predictions in float32 at least, and no wider than x_t: a sampler's state has to keep its type.

    A network may compute in half precision; in 64-bit mode NumPy constants and 64-bit parameters make float64 of a
    prediction.
    """

    def matched(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return narrow(widen(denoise(x_t, level)), x_t.dtype)

    return matched


def from_batched(network: Callable[..., Array]) -> Callable[..., Array]:
    """network(x[None], time[None], ...)[0]: a network that takes a batch, called on one example.

    network: (x, time, ...) -> output, every argument and the output with a leading batch axis.
    Returns the same function without that axis.
    Raises ValueError for an output that is not one array.

    >>> network = gj.denoiser.from_batched(lambda x, time: x * time[:, None])
    >>> network(jnp.ones(3), jnp.float32(2.0)).tolist()
    [2.0, 2.0, 2.0]
    """

    def single(*args: ArrayLike) -> Array:
        arrays = [jnp.asarray(argument)[None] for argument in args]
        output = network(*arrays)
        check_output(output, (1, *getattr(output, "shape", arrays[0].shape)[1:]))
        return output[0]

    return single


def from_tree(network: Callable[..., PyTree], example: PyTree, learned_variance: bool = False) -> Callable[..., Array]:
    """ravel(network(unravel(x), ...)): a network whose x is a pytree of arrays, called on one vector.

    Guidance and samplers then work on the vector, log_prob(unravel(x_t, example), level) guides by any of its parts, and
    unravel(x_0, example) is the sample.
    network: (x, time, ...) -> output, pytrees of the structure and shapes of `example`, such as {"image": (H, W, C) array,
        "sound": (N, C) array}.
    example: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
    learned_variance: whether each array of the output has twice the channels (last axis): of the vector the second half
        is the variance too.
    Returns a network of a vector (D,) of all the elements.
    Raises ValueError for an output of another structure or other shapes.

    >>> example = {"image": jnp.zeros((2, 2, 1)), "sound": jnp.zeros(3)}
    >>> network = lambda x, time: {"image": 2 * x["image"], "sound": x["sound"] + time}
    >>> flat = gj.denoiser.from_tree(network, example)
    >>> gj.denoiser.unravel(flat(jnp.ones(7), 5.0), example)["sound"].tolist()
    [6.0, 6.0, 6.0]
    """

    def flat(x: Float[Array, " D"], *args: Any) -> Float[Array, " n"]:
        output = network(unravel(x, example), *args)
        check_tree(output, example, channels=1 + learned_variance)
        if not learned_variance:
            return ravel(output)
        halves = [jax.tree.map(lambda leaf, half=half: jnp.split(leaf, 2, axis=-1)[half], output) for half in (0, 1)]
        return jnp.concatenate([ravel(half) for half in halves])

    return flat


def ravel(tree: PyTree) -> Float[Array, " D"]:
    """Return all the elements of a pytree of arrays as one vector (D,), in the order of `jax.tree.leaves(tree)`."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unravel(x: Float[Array, " D"], example: PyTree) -> PyTree:
    """Return the pytree of which `ravel` makes the vector x: in the structure and the shapes of `example`, the type of x.

    x: (D,). example: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
    Raises ValueError for a vector of another length.
    """
    leaves, structure = jax.tree.flatten(example)
    ends = np.cumsum([leaf.size for leaf in leaves])
    if x.shape != (ends[-1],):
        raise ValueError(f"x has shape {x.shape}; it has to be a vector of the {ends[-1]} elements of the pytree")
    parts = jnp.split(x, ends[:-1])
    return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])
