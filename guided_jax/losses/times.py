"""Which steps a network is trained on: laws of t / T, each as its quantile function, and how evenly a batch covers them.

A law turns a number u, uniform in (0, 1), into the share t / T of the way to noise. So whatever makes the u of a batch more
even makes its steps more even too, for every law.

Sources: [SD3] Esser et al. 2403.03206, [VDM] Kingma et al. 2107.00630.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Law = Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]]  # u -> t / T


class Strata(NamedTuple):
    """Which of so many equal parts of (0, 1) each example draws its u from: its index in the whole batch of that many."""

    part: Int[Array, "*batch"]
    parts: int


def uniform(u: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """t / T = u."""
    return u


def logit_normal(u: Float[Array, "*batch"], mean: float = 0.0, std: float = 1.0) -> Float[Array, "*batch"]:
    """log(t / (T - t)) = mean + std n, n standard normal ([SD3] eq. 19): most in the middle, little at both ends.

    mean: above 0 nearer to noise. std: above 0, the smaller the narrower.
    """
    return jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))


def stratified(u: Float[Array, "*batch"], part: Int[Array, "*batch"], parts: int) -> Float[Array, "*batch"]:
    """(i + u) / B: example i of a batch of B draws from the part i of B equal ones ([VDM] appendix I.1).

    The paper shares one u among the batch; here each example keeps its own, so that everything random of it comes from
    its own key.
    """
    return (part + u) / parts


def position(share: Float[Array, "*batch"], num_steps: int) -> Int[Array, "*batch"]:
    """1 + floor(T share), from 1 to T: the step of the table, the same for all shares from (t - 1) / T to t / T."""
    return jnp.clip(1 + jnp.floor(share * num_steps).astype(jnp.int32), 1, num_steps)
