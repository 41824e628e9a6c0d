"""Weighted examples, and systematic resampling. Source: [SMC] Chopin & Papaspiliopoulos 2020, chapters 9 and 10."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from guided_jax.checks import check_key


class Cloud(NamedTuple):
    """K weighted examples of one law.

    x_0: (K, *shape).
    log_weights: (K,), normalised: their exponentials sum to 1. Equal, with log_evidence -inf, where no example is possible.
    log_evidence: log of an unbiased estimate of the law's normalising constant, in nats.
    ess: (steps,), the effective sample size after each step, 1 to K, before it resamples; noisiest first.
    """

    x_0: Float[Array, "K *shape"]
    log_weights: Float[Array, " K"]
    log_evidence: Float[Array, ""]
    ess: Float[Array, " steps"]


def resample(key, cloud: Cloud) -> Float[Array, "K *shape"]:
    """Return K equally weighted examples (K, *shape), each as often as its weight says, to within one copy.

    key: a JAX key.
    cloud: of `particles.sample`.
    """
    check_key(key)
    return cloud.x_0[systematic(key, cloud.log_weights)]


def systematic(key, log_weights: Float[Array, " K"]) -> Int[Array, " K"]:
    """Return the positions, ascending, at which (i + u) / K lies in the cumulative weights, with one uniform u ([SMC] 9.4).

    key: a JAX key.
    log_weights: (K,), normalised.
    """
    cumulative = jnp.cumsum(jnp.exp(log_weights))
    count = len(log_weights)
    u = jax.random.uniform(key, (), cumulative.dtype)
    points = (jnp.arange(count) + u) / count * cumulative[-1]
    # "right": a weight of 0 is never chosen. The last point may be rounded up to the end.
    return jnp.minimum(jnp.searchsorted(cumulative, points, side="right"), count - 1)


def reweigh(
    log_weights: Float[Array, " K"], log_evidence: Float[Array, ""], log_factors: Float[Array, " K"]
) -> tuple[Float[Array, " K"], Float[Array, ""]]:
    """w_k f_k / sum_j w_j f_j, and the evidence times that sum, in logarithms ([SMC] 10.2).

    log_weights: (K,), normalised. log_evidence: so far. log_factors: (K,).
    """
    total = jax.nn.logsumexp(log_weights + log_factors)
    equal = jnp.full_like(log_weights, -math.log(len(log_weights)))
    return jnp.where(total == -jnp.inf, equal, log_weights + log_factors - total), log_evidence + total


def effective_size(log_weights: Float[Array, " K"]) -> Float[Array, ""]:
    """1 / sum_k w_k^2: as many equally weighted examples say as much ([SMC] eq. 8.6). log_weights: (K,), normalised."""
    return jnp.exp(-jax.nn.logsumexp(2 * log_weights))
