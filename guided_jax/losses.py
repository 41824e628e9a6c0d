"""What networks are trained on: noisy examples, made from clean ones and one key each.

Unlike sampling, these work on a batch: a network called once on a batch has one weight gradient, a vmapped one has one for
each example. Everything random comes from the example's own key, so a loss never depends on batch, device or order.

Sources: [DDPM] Ho et al. 2006.11239, [PD] Salimans & Ho 2202.00512, [CFG] Ho & Salimans 2207.12598, [ADM] Dhariwal & Nichol
2105.05233 section 4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from guided_jax.denoiser import network_time
from guided_jax.forward import diffuse
from guided_jax.prediction import Prediction, v
from guided_jax.schedule import NoiseLevel, at

TARGETS: dict[str, Callable[[Prediction, NoiseLevel], Array]] = {
    "eps": lambda truth, level: truth.eps,
    "x_0": lambda truth, level: truth.x_0,
    "v": v,
}


class Noisy(NamedTuple):
    """Noised examples (B, *shape), what is true of them, and a key for what the network itself draws."""

    x_t: Array
    truth: Prediction
    level: NoiseLevel
    keys: Array


def corrupt(keys: Key[Array, " batch"], x_0: Float[Array, "batch *shape"], levels: NoiseLevel) -> Noisy:
    """x_t = alpha_t x_0 + sigma_t eps with t uniform in 1..T and eps standard normal, one draw an example."""

    def one(key: Array, x_0: Array) -> Noisy:
        key_level, key_eps, key_network, _ = _streams(key)
        level = at(levels, jax.random.randint(key_level, (), 1, len(levels.t)))
        eps = jax.random.normal(key_eps, x_0.shape, x_0.dtype)
        return Noisy(diffuse(x_0, eps, level), Prediction(x_0, eps), level, key_network)

    return jax.vmap(one)(keys, x_0)


def diffusion(
    network: Callable[[Array, Array, PyTree, Array], Array],
    keys: Key[Array, " batch"],
    x_0: Float[Array, "batch *shape"],
    condition: PyTree,
    levels: NoiseLevel,
    target: str = "eps",
    time: Callable[[NoiseLevel], Array] = network_time,
) -> Float[Array, " batch"]:
    """mean over the elements of (network(x_t, time, condition) - target)^2, for each example ([DDPM] eq. 14).

    network: (x_t, times, condition, keys) -> output, on the batch; the keys are for dropout. condition: a pytree of
    (B, ...) leaves, a label being one case, or None. target: "eps", "x_0" or "v" ([PD] appendix D), which is the
    `parameterization` that `denoiser.from_network` is then told. Raises ValueError for another target.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    noisy = corrupt(keys, x_0, levels)
    output = network(noisy.x_t, time(noisy.level), condition, noisy.keys)
    error = output - jax.vmap(TARGETS[target])(noisy.truth, noisy.level)
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def classification(
    network: Callable[[Array, Array, Array], Array],
    keys: Key[Array, " batch"],
    x_0: Float[Array, "batch *shape"],
    label: Int[Array, " batch"],
    levels: NoiseLevel,
    time: Callable[[NoiseLevel], Array] = network_time,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """-log p(label | x_t) and whether the classifier was right (0 or 1), for each example ([ADM] section 4).

    network: (x_t, times, keys) -> logits (B, classes), on the batch. label: in [0, classes).
    """
    noisy = corrupt(keys, x_0, levels)
    logits = network(noisy.x_t, time(noisy.level), noisy.keys)
    of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
    return -of_label, (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)


def drop(keys: Key[Array, " batch"], condition: PyTree, null: PyTree, rate: float) -> PyTree:
    """The condition, or `null` with probability `rate`, for each example ([CFG] algorithm 1).

    condition: leaves (B, ...). null: the same tree for one example, leaves (...): what "no condition" is.
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(_streams(key)[3], rate))(keys)

    def choose(given: Array, nothing: Array) -> Array:
        mask = dropped.reshape(-1, *[1] * (given.ndim - 1))
        return jnp.where(mask, jnp.broadcast_to(jnp.asarray(nothing, given.dtype), given.shape), given)

    return jax.tree.map(choose, condition, null)


def _streams(key: Array) -> Array:
    """The four keys of an example: of its level, its eps, its network, its drop.

    One split for all of them: `fold_in(key, i)` is the very same key as `split(key)[i]`, so mixing the two repeats draws.
    """
    return jax.random.split(key, 4)
