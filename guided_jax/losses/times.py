"""The steps that a network is trained on: laws of t / T, each as its quantile function, and stratified batches.

A law maps u, uniform in (0, 1), to the share t / T of the way to noise. Stratifying the u of a batch therefore
stratifies its steps, for every law.

Sources: [SD3] Esser et al. 2403.03206, [VDM] Kingma et al. 2107.00630.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Law = Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]]  # u -> t / T


class Strata(NamedTuple):
    """The part of (0, 1) from which each example draws its u."""

    part: Int[Array, "*batch"]  # the index of the example in the whole batch
    parts: int  # the number of equal parts: the size of the whole batch


def uniform(u: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """t / T = u, the uniform law. u: in (0, 1)."""
    return u


def logit_normal(u: Float[Array, "*batch"], mean: float = 0.0, std: float = 1.0) -> Float[Array, "*batch"]:
    """log(t / (T - t)) = mean + std n, n standard normal: logit-normal sampling, dense in the middle ([SD3]).

    u: in (0, 1), the quantile of n.
    mean: above 0 for more noise.
    std: above 0.
    Returns t / T.
    """
    return jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))


def stratified(u: Float[Array, "*batch"], part: Int[Array, "*batch"], parts: int) -> Float[Array, "*batch"]:
    """(i + u) / B: example i of a batch of B draws from part i of B equal parts, after [VDM].

    u: in (0, 1).
    part: i.
    parts: B. The paper has one u for the batch; here each example has its own, from its own key.
    """
    return (part + u) / parts


def position(share: Float[Array, "*batch"], num_steps: int) -> Int[Array, "*batch"]:
    """1 + floor(T share), in 1..T: the position in the table of a share t / T. num_steps: T."""
    return jnp.clip(1 + jnp.floor(share * num_steps).astype(jnp.int32), 1, num_steps)
