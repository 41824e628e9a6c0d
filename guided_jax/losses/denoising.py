"""What networks are trained on: noisy examples, made from clean ones and one key each.

Unlike sampling, these work on a batch: a network called once on a batch has one weight gradient, a vmapped one has one for
each example. Everything random comes from the example's own key, so a loss never depends on batch, device or order.

Sources: [DDPM] Ho et al. 2006.11239, [PD] Salimans & Ho 2202.00512, [CFG] Ho & Salimans 2207.12598, [ADM] Dhariwal & Nichol
2105.05233 section 4, [iDDPM] Nichol & Dhariwal 2102.09672, [BitD] Chen et al. 2208.04202.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from guided_jax.denoiser import PARAMETERIZATIONS, network_time
from guided_jax.forward import diffuse
from guided_jax.likelihood import bits_per_dim, step_bound
from guided_jax.losses import times
from guided_jax.losses.weighting import Weight
from guided_jax.prediction import Prediction, v
from guided_jax.schedule import NoiseLevel, at

Network = Callable[[Array, Array, PyTree, Array], Array]  # (x_t, times, condition, keys) -> output, on the batch

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
    position: Array  # of the level in the table


def corrupt(
    keys: Key[Array, " batch"],
    x_0: Float[Array, "batch *shape"],
    levels: NoiseLevel,
    law: times.Law | None = None,
    strata: times.Strata | None = None,
) -> Noisy:
    """x_t = alpha_t x_0 + sigma_t eps with t uniform in 1..T and eps standard normal, one draw an example.

    law: of t / T, instead of the uniform one. strata: the part of the law that each example draws from, by its index in
    the whole batch (B,), so that a batch covers the law evenly.
    """
    num_steps = len(levels.t) - 1

    def drawn(key: Array, part: Array | None) -> Array:
        if law is None and part is None:
            return jax.random.randint(key, (), 1, num_steps + 1)
        u = jax.random.uniform(key)
        u = u if part is None or strata is None else times.stratified(u, part, strata.parts)
        return times.position((law or times.uniform)(u), num_steps)

    def one(key: Array, x_0: Array, part: Array | None) -> Noisy:
        key_level, key_eps, key_network, *_ = _streams(key)
        position = drawn(key_level, part)
        level = at(levels, position)
        eps = jax.random.normal(key_eps, x_0.shape, x_0.dtype)
        return Noisy(diffuse(x_0, eps, level), Prediction(x_0, eps), level, key_network, position)

    return jax.vmap(one)(keys, x_0, None if strata is None else strata.part)


def diffusion(
    network: Network,
    keys: Key[Array, " batch"],
    x_0: Float[Array, "batch *shape"],
    condition: PyTree,
    levels: NoiseLevel,
    target: str = "eps",
    time: Callable[[NoiseLevel], Array] = network_time,
    learned_variance: bool = False,
) -> Float[Array, " batch"]:
    """mean over the elements of (network(x_t, time, condition) - target)^2, for each example ([DDPM] eq. 14).

    `denoising` of what `corrupt` makes of the examples, at uniform steps and without weights.
    """
    _check_target(target)
    return denoising(network, corrupt(keys, x_0, levels), condition, levels, target, time, learned_variance)


def denoising(
    network: Network,
    noisy: Noisy,
    condition: PyTree,
    levels: NoiseLevel,
    target: str = "eps",
    time: Callable[[NoiseLevel], Array] = network_time,
    learned_variance: bool = False,
    weight: Weight | None = None,
) -> Float[Array, " batch"]:
    """weight times the mean over the elements of (network(x_t, time, condition) - target)^2, for each example.

    learned_variance: the network gives twice the channels, and `hybrid` is the loss ([iDDPM] eq. 16).

    network: (x_t, times, condition, keys) -> output, on the batch; the keys are for dropout. condition: a pytree of
    (B, ...) leaves, a label being one case, or None. target: "eps", "x_0" or "v" ([PD] appendix D), which is the
    `parameterization` that `denoiser.from_network` is then told. weight: of the squared error at a level, such as
    `weighting.of_loss` gives; the bound of a learned variance is never weighted. Raises ValueError for another target.
    """
    _check_target(target)
    output = network(noisy.x_t, time(noisy.level), condition, noisy.keys)
    if learned_variance:
        found = jax.vmap(lambda output, noisy: hybrid(output, noisy, levels, target))(output, noisy)
        return found.total if weight is None else weight(noisy.level) * found.mse + found.bits
    error = output - jax.vmap(TARGETS[target])(noisy.truth, noisy.level)
    each = jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
    return each if weight is None else weight(noisy.level) * each


def first_estimate(
    network: Network,
    keys: Key[Array, " batch"],
    noisy: Noisy,
    condition: PyTree,
    target: str = "eps",
    time: Callable[[NoiseLevel], Array] = network_time,
    rate: float = 0.5,
) -> Float[Array, "batch *shape"]:
    """x_0 that the network itself predicts, for each example with probability `rate`, else zeros ([BitD] algorithm 1).

    What self-conditioning gives the network beside x_t. network: the one that is told an estimate of zeros. The result is
    clipped to [-1, 1], as pictures are, since an eps network's x_0 is huge where alpha is small; it passes no gradient.
    Raises ValueError for another target.
    """
    _check_target(target)
    own = jax.vmap(lambda key: _streams(key)[5])(keys)  # noisy.keys are the second pass's: both would drop the same
    output = network(noisy.x_t, time(noisy.level), condition, own)
    mean = output[..., : noisy.x_t.shape[-1]]  # the other half of the channels is a learned variance
    found = jax.vmap(PARAMETERIZATIONS[target])(mean, noisy.x_t, noisy.level).x_0
    given = jax.vmap(lambda key: jax.random.bernoulli(_streams(key)[4], rate))(keys)
    mask = given.reshape(-1, *[1] * (found.ndim - 1))
    return jax.lax.stop_gradient(jnp.where(mask, jnp.clip(found, -1.0, 1.0), 0.0))


class Hybrid(NamedTuple):
    """The two terms of a loss for one example; their sum is what a network with learned variance is trained on."""

    mse: Array
    bits: Array  # the step's share of the bits per dimension

    @property
    def total(self) -> Array:
        """mse + bits."""
        return self.mse + self.bits


def hybrid(output: Float[Array, "*shape"], noisy: Noisy, levels: NoiseLevel, target: str = "eps") -> Hybrid:
    """mse of the first half of the channels, and the step's bound with that half held fixed ([iDDPM] eq. 16).

    One example. output: twice the channels; the second half v in [-1, 1] tells the variance, and only it feels the bound,
    in bits per dimension, as in ADM (whose `rescale_learned_sigmas` has it times T / 1000).
    """
    _check_target(target)
    mean, variance = jnp.split(output, 2, axis=-1)
    mse = jnp.mean(jnp.square(mean - TARGETS[target](noisy.truth, noisy.level)))
    return Hybrid(mse, bound_bits(jax.lax.stop_gradient(mean), variance, noisy, levels, target))


def bound_bits(
    mean: Float[Array, "*shape"],
    variance: Float[Array, "*shape"] | str,
    noisy: Noisy,
    levels: NoiseLevel,
    target: str = "eps",
) -> Float[Array, ""]:
    """The step's variational bound in bits per dimension, of one example: ADM's KL loss, and the second term of `hybrid`.

    variance: v in [-1, 1] that the network gave, or "small" or "large".
    """
    _check_target(target)
    said = PARAMETERIZATIONS[target](mean, noisy.x_t, noisy.level)
    rule = variance if isinstance(variance, str) else "learned"
    said = said if isinstance(variance, str) else said._replace(variance_fraction=(variance + 1) / 2)
    nats = step_bound(said, noisy.x_t, noisy.truth.x_0, noisy.position, levels, rule)
    return bits_per_dim(nats, noisy.x_t.size)


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")


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
    """The six keys of an example: of its level, its eps, its network, its drop, its first estimate and that one's network.

    One split for all of them: `fold_in(key, i)` is the very same key as `split(key)[i]`, so mixing the two repeats draws.
    """
    return jax.random.split(key, 6)
