"""Importance sampling of steps: steps of large losses are drawn more often, and their losses weighted less.

Source: [iDDPM] Nichol & Dhariwal 2102.09672 section 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class History(NamedTuple):
    """The last losses of every step: losses (T, length), the newest last; counts (T,), how many there are of each step."""

    losses: Float[Array, "T length"]
    counts: Int[Array, " T"]


def empty(num_steps: int, length: int = 10) -> History:
    """Return a history without losses.

    num_steps: T.
    length: how many losses of each step are kept; 10 in [iDDPM].
    Raises ValueError for numbers below 1.
    """
    if num_steps < 1 or length < 1:
        raise ValueError(f"num_steps {num_steps} and length {length} have to be at least 1")
    return History(jnp.zeros((num_steps, length)), jnp.zeros(num_steps, jnp.int32))


def probabilities(history: History, uniform: float = 0.001) -> Float[Array, " T"]:
    """p_t ~ sqrt(mean of loss_t^2), mixed with a share `uniform` of the uniform law ([iDDPM] eq. 18).

    history: of T steps; the result is uniform until all of them are full.
    uniform: a share, in [0, 1].
    Returns (T,), which are the weights of ADM's second-moment sampler, normalised.
    """
    steps, length = history.losses.shape
    size = jnp.sqrt(jnp.mean(jnp.square(history.losses), axis=1))
    weighted = size / jnp.maximum(size.sum(), jnp.finfo(size.dtype).tiny) * (1 - uniform) + uniform / steps
    return jnp.where(jnp.all(history.counts == length), weighted, 1 / steps)


def draw(key, probabilities: Float[Array, " T"]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """Draw a step: (index in 0..T - 1, weight 1 / (T p) of its loss); the mean weighted loss is that of the uniform law.

    key: a JAX key.
    probabilities: (T,).
    """
    index = jax.random.categorical(key, jnp.log(probabilities))
    return index, 1 / (len(probabilities) * probabilities[index])


def record(history: History, indices: Int[Array, " n"], losses: Float[Array, " n"]) -> History:
    """Return the history with new losses appended, one after the other; a full step drops its oldest loss.

    history: of T steps.
    indices: (n,), in 0..T - 1.
    losses: (n,), unweighted. With several devices gather both first, so that all have the same history.
    """
    length = history.losses.shape[1]

    def one(kept: History, seen: tuple[Array, Array]) -> tuple[History, None]:
        index, loss = seen
        row, count = kept.losses[index], kept.counts[index]
        filled = jnp.where(jnp.arange(length) == count, loss, row)
        row = jnp.where(count == length, jnp.append(row[1:], loss), filled)
        counts = kept.counts.at[index].set(jnp.minimum(count + 1, length))
        return History(kept.losses.at[index].set(row), counts), None

    return jax.lax.scan(one, history, (indices, losses))[0]
