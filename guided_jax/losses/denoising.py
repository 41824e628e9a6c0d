"""Losses of noisy examples, made from clean ones and one key each.

Unlike sampling, these functions work on a batch: a network called on a batch has one weight gradient, a vmapped network
has one for each example. All randomness comes from the example's own key, so a loss never depends on batch, device or
order.

Sources: [DDPM] Ho et al. 2006.11239, [PD] Salimans & Ho 2202.00512, [CFG] Ho & Salimans 2207.12598, [ADM] Dhariwal &
Nichol 2105.05233 section 4, [iDDPM] Nichol & Dhariwal 2102.09672, [BitD] Chen et al. 2208.04202, [SDE] Song et al.
2011.13456, [FM] Lipman et al. 2210.02747.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from guided_jax.checks import check_index, check_output
from guided_jax.denoiser import PARAMETERIZATIONS, network_time
from guided_jax.forward import diffuse
from guided_jax.likelihood import bits_per_dim, step_bound
from guided_jax.losses import times
from guided_jax.losses.weighting import Weight
from guided_jax.prediction import Prediction, score, v
from guided_jax.schedule import NoiseLevel, at

Network = Callable[[Array, Array, PyTree, Array], Array]  # (x_t, times, condition, keys) -> output, on the batch

TARGETS: dict[str, Callable[[Prediction, NoiseLevel], Array]] = {
    "eps": lambda truth, level: truth.eps,
    "x_0": lambda truth, level: truth.x_0,
    "v": v,
    "score": score,
    "flow": lambda truth, level: truth.eps - truth.x_0,
}


class Noisy(NamedTuple):
    """A batch of B noisy examples, with what a loss compares a network to."""

    x_t: Array  # (B, *shape)
    truth: Prediction  # the x_0 and the eps of which x_t was made, (B, *shape) each
    level: NoiseLevel  # of x_t, columns (B,)
    keys: Array  # (B,), for the randomness of the network: dropout
    position: Array  # (B,), of the level in the table


def corrupt(
    keys: Key[Array, " batch"],
    x_0: Float[Array, "batch *shape"],
    levels: NoiseLevel,
    law: times.Law | None = None,
    strata: times.Strata | None = None,
) -> Noisy:
    """x_t = alpha_t x_0 + sigma_t eps with t uniform in 1..T and eps standard normal, one draw an example.

    keys: (B,) JAX keys.
    x_0: (B, *shape), clean.
    levels: the table, of T + 1 levels.
    law: of t / T, instead of the uniform one, from `times`.
    strata: the part of the law from which each example draws, by its index in the whole batch, so that a batch covers
        the law evenly.
    Returns Noisy.

    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> noisy = gj.losses.corrupt(keys, jnp.zeros((3, 2)), gj.schedule.cosine(10))
    >>> noisy.x_t.shape, bool(jnp.all(noisy.position >= 1))
    ((3, 2), True)
    """
    num_steps = len(levels.t) - 1

    def draw_position(key: Array, part: Array | None) -> Array:
        if law is None and part is None:
            return jax.random.randint(key, (), 1, num_steps + 1)
        u = jax.random.uniform(key)
        u = u if part is None or strata is None else times.stratified(u, part, strata.parts)
        return times.position((law or times.uniform)(u), num_steps)

    def one(key: Array, x_0: Array, part: Array | None) -> Noisy:
        key_level, key_eps, key_network, *_ = streams(key)
        position = draw_position(key_level, part)
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

    `denoising` of `corrupt(keys, x_0, levels)`: at uniform steps, without weights.
    network, condition, levels, target, time, learned_variance: as for `denoising`.
    keys, x_0: as for `corrupt`.
    Returns (B,).
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

    network: (x_t, times, condition, keys) -> output, on the batch; the keys are for dropout.
    noisy: as `corrupt` returns it.
    condition: a pytree of (B, ...) leaves, such as labels, or None.
    levels: the table.
    target: "eps", "x_0", "v" ([PD] appendix D), "score" = -eps / sigma, or "flow" = eps - x_0 ([FM]): the
        `parameterization` of the network in `denoiser.from_network`. An error of a score is multiplied by sigma, which
        makes the loss that of its eps at every level ([SDE] eq. 7 with lambda = sigma^2); let the network compute numbers
        of size 1 and return them divided by sigma.
    time: level -> the network's time, any pytree; t - 1 by default.
    learned_variance: whether the network returns twice the channels, and the loss is `hybrid` ([iDDPM] eq. 16).
    weight: level -> weight of the squared error, such as `weighting.of_loss`; the bound of a learned variance is not
        weighted.
    Returns (B,).
    Raises ValueError for any other target, and for an output of another shape.

    >>> keys, levels = jax.random.split(jax.random.key(0), 4), gj.schedule.cosine(10)
    >>> noisy = gj.losses.corrupt(keys, jnp.ones((4, 2)), levels)
    >>> network = lambda x_t, times, condition, keys: jnp.ones_like(x_t)
    >>> gj.losses.denoising(network, noisy, None, levels, "x_0").tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    _check_target(target)
    output = network(noisy.x_t, time(noisy.level), condition, noisy.keys)
    channels = noisy.x_t.shape[-1] * (1 + learned_variance)
    check_output(output, (*noisy.x_t.shape[:-1], channels))
    if learned_variance:
        found = jax.vmap(lambda output, noisy: hybrid(output, noisy, levels, target))(output, noisy)
        return found.total if weight is None else weight(noisy.level) * found.mse + found.bits
    error = jax.vmap(_error(target))(output, noisy.truth, noisy.level)
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
    """The x_0 that the network predicts, for each example with probability `rate`, else zeros ([BitD] algorithm 1).

    The input of self-conditioning, beside x_t.
    network: with an estimate of zeros.
    keys, noisy: of the same examples.
    condition, target, time: as for `denoising`.
    rate: a probability.
    Returns (B, *shape), clipped to [-1, 1], as the x_0 of an eps network is huge where alpha is small; without a
        gradient.
    Raises ValueError for any other target.
    """
    _check_target(target)
    own = jax.vmap(lambda key: streams(key)[5])(keys)  # with noisy.keys both passes would have the same dropout
    output = network(noisy.x_t, time(noisy.level), condition, own)
    mean = output[..., : noisy.x_t.shape[-1]]  # the other half of the channels is a learned variance
    x_0 = jax.vmap(PARAMETERIZATIONS[target])(mean, noisy.x_t, noisy.level).x_0
    chosen = jax.vmap(lambda key: jax.random.bernoulli(streams(key)[4], rate))(keys)
    mask = chosen.reshape(-1, *[1] * (x_0.ndim - 1))
    return jax.lax.stop_gradient(jnp.where(mask, jnp.clip(x_0, -1.0, 1.0), 0.0))


class Hybrid(NamedTuple):
    """The two terms of the loss of a network with learned variance, of one example; the loss is their sum."""

    mse: Array
    bits: Array  # the step's share of the bits per dimension

    @property
    def total(self) -> Array:
        """mse + bits."""
        return self.mse + self.bits


def hybrid(output: Float[Array, "*shape"], noisy: Noisy, levels: NoiseLevel, target: str = "eps") -> Hybrid:
    """mse of the first half of the channels, and the bound of the step without a gradient to that half ([iDDPM] eq. 16).

    One example.
    output: twice the channels; the second half v in [-1, 1] is the variance, the only half with a gradient of the
        bound.
    noisy: one example of it.
    levels, target: as for `denoising`.
    Returns Hybrid, the bound in bits per dimension, as in ADM (whose `rescale_learned_sigmas` multiplies it by T /
        1000).
    """
    _check_target(target)
    mean, variance = jnp.split(output, 2, axis=-1)
    mse = jnp.mean(jnp.square(_error(target)(mean, noisy.truth, noisy.level)))
    return Hybrid(mse, bound_bits(jax.lax.stop_gradient(mean), variance, noisy, levels, target))


def bound_bits(
    mean: Float[Array, "*shape"],
    variance: Float[Array, "*shape"] | str,
    noisy: Noisy,
    levels: NoiseLevel,
    target: str = "eps",
) -> Float[Array, ""]:
    """The variational bound of the step, of one example, in bits per dimension: ADM's KL loss.

    mean: (*shape), the network's output, which is the target.
    variance: v in [-1, 1], the network's second half, or "small" or "large".
    noisy: one example of it.
    levels, target: as for `denoising`.
    """
    _check_target(target)
    prediction = PARAMETERIZATIONS[target](mean, noisy.x_t, noisy.level)
    rule = variance if isinstance(variance, str) else "learned"
    if not isinstance(variance, str):
        prediction = prediction._replace(variance_fraction=(variance + 1) / 2)
    nats = step_bound(prediction, noisy.x_t, noisy.truth.x_0, noisy.position, levels, rule)
    return bits_per_dim(nats, noisy.x_t.size)


def _error(target: str) -> Callable[[Array, Prediction, NoiseLevel], Array]:
    """(output, truth, level) -> output - target, and sigma times that for a score: the error of an eps."""

    def error(output: Array, truth: Prediction, level: NoiseLevel) -> Array:
        plain = output - TARGETS[target](truth, level)
        return level.sigma * plain if target == "score" else plain

    return error


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
    """(-log p(label | x_t), whether the classifier was right, 0 or 1), for each example ([ADM] section 4).

    network: (x_t, times, keys) -> logits (B, classes), on the batch.
    keys: (B,) JAX keys.
    x_0: (B, *shape).
    label: (B,), in 0 .. classes - 1.
    levels: the table.
    time: level -> the network's time.
    Returns two arrays (B,).
    Raises ValueError for a concrete label that is out of range; a traced one has the loss NaN.
    """
    noisy = corrupt(keys, x_0, levels)
    logits = network(noisy.x_t, time(noisy.level), noisy.keys)
    check_index("label", label, logits.shape[-1])
    of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
    return -of_label, (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)


def drop(keys: Key[Array, " batch"], condition: PyTree, null: PyTree, rate: float) -> PyTree:
    """The condition, or `null` with probability `rate`, for each example ([CFG] algorithm 1).

    keys: (B,) JAX keys.
    condition: a pytree of leaves (B, ...).
    null: the same pytree for one example, leaves (...), which stands for no condition.
    rate: a probability.
    Returns a pytree as condition.
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(streams(key)[3], rate))(keys)

    def choose(given: Array, nothing: Array) -> Array:
        mask = dropped.reshape(-1, *[1] * (given.ndim - 1))
        return jnp.where(mask, jnp.broadcast_to(jnp.asarray(nothing, given.dtype), given.shape), given)

    return jax.tree.map(choose, condition, null)


def streams(key: Array) -> Array:
    """The six keys of an example: of level, eps, network, drop, first estimate, and network of the first estimate.

    key: of the example.
    All by one split: `fold_in(key, i)` is the same key as `split(key)[i]`, so that using both would repeat draws.
    """
    return jax.random.split(key, 6)
