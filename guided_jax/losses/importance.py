"""Which steps to train on more often: those whose losses are large, each loss divided by how often its step is drawn.

Source: [iDDPM] Nichol & Dhariwal 2102.09672 section 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class History(NamedTuple):
    """The last losses of every step: losses (T, length), the newest last, and how many there are of each."""

    losses: Float[Array, "T length"]
    counts: Int[Array, " T"]


def empty(num_steps: int, length: int = 10) -> History:
    """Nothing seen yet. length: how many losses of a step count; [iDDPM] takes 10."""
    if num_steps < 1 or length < 1:
        raise ValueError(f"num_steps {num_steps} and length {length} have to be at least 1")
    return History(jnp.zeros((num_steps, length)), jnp.zeros(num_steps, jnp.int32))


def probabilities(history: History, uniform: float = 0.001) -> Float[Array, " T"]:
    """p_t ~ sqrt(mean of loss_t^2), mixed with a share `uniform` of the uniform law; uniform until every step is full.

    [iDDPM] eq. 18. Of ADM's second-moment sampler these are the weights, made to sum to 1.
    """
    steps, length = history.losses.shape
    size = jnp.sqrt(jnp.mean(jnp.square(history.losses), axis=1))
    known = size / jnp.maximum(size.sum(), jnp.finfo(size.dtype).tiny) * (1 - uniform) + uniform / steps
    return jnp.where(jnp.all(history.counts == length), known, 1 / steps)


def draw(key, probabilities: Float[Array, " T"]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """(index in 0..T - 1, the weight 1 / (T p) of its loss): the mean of weighted losses stays the uniform law's."""
    index = jax.random.categorical(key, jnp.log(probabilities))
    return index, 1 / (len(probabilities) * probabilities[index])


def record(history: History, indices: Int[Array, " n"], losses: Float[Array, " n"]) -> History:
    """The history with these losses of these steps, one after the other; the oldest of a full step is forgotten.

    losses: unweighted. With several devices gather both first, so that all keep the same history.
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
