"""Log probabilities for classifier guidance: of one label or several, at a temperature.

Sources: [EluCD] Ma et al. 2310.11311 (the two temperatures), [CD] Liu et al. 2206.01714 (products).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from guided_jax.checks import check_index
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb

Logits = Callable[[Array, NoiseLevel], Array]  # (x_t, level) -> logits (classes,)


def from_logits(
    logits: Logits, label: Int[ArrayLike, "*labels"], joint: ArrayLike = 1.0, marginal: ArrayLike = 1.0
) -> LogProb:
    """log(sum_y exp(joint f_y) / sum_k exp(marginal f_k)) over the given labels y, [EluCD]'s joint and marginal.

    logits: (x_t, level) -> f, (classes,).
    label: one label, or an array of several, of any of which the probability is taken; may be traced.
    joint, marginal: inverse temperatures, the paper's tau_1 and tau_2, numbers or traced values; 1 and 1 is log p(y |
        x), both 1 / T is its temperature T; [EluCD] has 1.0 and 0.5; at marginal 0 the other classes do not count.
    Returns (x_t, level) -> scalar, which raises ValueError for a concrete label outside 0 .. classes - 1. A traced
        label is clamped to that range, as JAX does; jax.experimental.checkify with index_checks reports it.

    >>> logits = lambda x_t, level: jnp.array([0.0, 0.0, 5.0, 0.0])
    >>> log_prob = gj.guidance.from_logits(logits, 2)
    >>> round(float(jnp.exp(log_prob(jnp.zeros(3), gj.schedule.at(gj.schedule.cosine(10), 5)))), 2)
    0.98
    """

    def log_prob(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        f = logits(x_t, level)
        check_index("label", label, len(f))
        chosen = jnp.atleast_1d(f[jnp.asarray(label)])
        return jax.nn.logsumexp(joint * chosen) - jax.nn.logsumexp(marginal * f)

    return log_prob


def any_of(log_probs: Sequence[LogProb]) -> LogProb:
    """log sum_i p(y_i | x_t): any of several exclusive labels.

    log_probs: (x_t, level) -> log p(y_i | x_t), of one classifier.
    Returns (x_t, level) -> scalar.
    """

    def log_prob(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        return jax.nn.logsumexp(jnp.stack([one(x_t, level) for one in log_probs]))

    return log_prob


def all_of(log_probs: Sequence[LogProb], weights: Sequence[ArrayLike] | None = None) -> LogProb:
    """sum_i w_i log p(y_i | x_t): all of several labels, of independent classifiers ([CD]); a negative weight means NOT.

    log_probs: (x_t, level) -> log p(y_i | x_t).
    weights: w_i, numbers or traced values; all 1 if None.
    Returns (x_t, level) -> scalar.
    Raises ValueError for another number of weights.
    """
    weights = [1.0] * len(log_probs) if weights is None else weights
    if len(weights) != len(log_probs):
        raise ValueError(f"{len(log_probs)} log probabilities and {len(weights)} weights; give one weight for each")

    def log_prob(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        each = [weight * one(x_t, level) for one, weight in zip(log_probs, weights, strict=True)]
        return jnp.sum(jnp.stack(each))

    return log_prob
