"""The exact oracle: a labelled mixture of Gaussians, whose denoisers, noisy classifier and densities have closed forms.

Diffused, component k stays Gaussian: x_t | k ~ N(alpha m_k, V_k), V_k = alpha^2 s_k^2 + sigma^2. Everything else is
Bayes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Num

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser
from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb


class GaussianMixture(NamedTuple):
    """p(x_0) = sum_k weights_k N(x_0; means_k, stds_k^2 I), component k belonging to class labels_k.

    weights: (K,), need not sum to 1.
    means: (K, *shape).
    stds: (K,).
    labels: (K,) int, each component its own class if None. The methods take a label that may be traced, and raise
        ValueError for a concrete one that no component has.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([0.1, 0.1]))
    >>> mixture.sample(jax.random.key(0), label=1).shape
    (2,)
    """

    weights: Num[Array, " K"]
    means: Num[Array, "K *shape"]
    stds: Num[Array, " K"]
    labels: Int[Array, " K"] | None = None

    def denoiser(self, label: Int[ArrayLike, ""] | None = None) -> Denoiser:
        """E[x_0 | x_t, label] and E[eps | x_t, label], each by its own formula, exact at both ends of a schedule.

        label: the class; None for all.
        Returns a denoiser.

        >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
        >>> level = gj.schedule.at(gj.schedule.cosine(1000), 990)  # almost pure noise: x_0 is the mean of the law
        >>> [round(float(mixture.denoiser(label)(jnp.zeros(1), level).x_0[0]), 2) for label in (None, 0, 1)]
        [0.0, -1.0, 1.0]
        """
        member = _members(self, label)

        def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
            mixture = _Diffused.at(self, x_t, level)
            share = jax.nn.softmax(jnp.where(member, mixture.logits, -jnp.inf))[:, None]
            x_0 = jnp.sum(share * (mixture.means + level.alpha * mixture.gain * mixture.offsets), 0)
            eps = jnp.sum(share * (ratio(level.sigma, mixture.variances)[:, None] * mixture.offsets), 0)
            return Prediction(x_0.reshape(x_t.shape), eps.reshape(x_t.shape))

        return denoise

    def log_prob(self, label: Int[ArrayLike, ""]) -> LogProb:
        """(x_t, level) -> log p(label | x_t): the exact noisy classifier. label: the class.

        >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
        >>> log_prob = mixture.log_prob(1)
        >>> round(float(jnp.exp(log_prob(jnp.zeros(1), gj.schedule.at(gj.schedule.cosine(1000), 500)))), 2)
        0.5
        """
        member = _members(self, label)

        def log_prob(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
            logits = _Diffused.at(self, x_t, level).logits
            return jax.nn.logsumexp(jnp.where(member, logits, -jnp.inf)) - jax.nn.logsumexp(logits)

        return log_prob

    def log_density(self) -> Callable[[Array, NoiseLevel], Float[Array, ""]]:
        """(x_t, level) -> log p(x_t), in nats."""

        def log_density(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
            mixture = _Diffused.at(self, x_t, level)
            return jax.nn.logsumexp(mixture.logits) + mixture.log_reference

        return log_density

    def sample(self, key, label: Int[ArrayLike, ""] | None = None) -> Float[Array, "*shape"]:
        """Draw one x_0, (*shape). key: a JAX key. label: the class; None for all."""
        check_key(key)
        key_component, key_noise = jax.random.split(key)
        means, stds = jnp.asarray(self.means), jnp.asarray(self.stds)
        log_weights = jnp.where(_members(self, label), jnp.log(jnp.asarray(self.weights)), -jnp.inf)
        k = jax.random.categorical(key_component, log_weights)
        dtype = jnp.result_type(means, stds, jnp.float32)
        return means[k] + stds[k] * jax.random.normal(key_noise, means.shape[1:], dtype)


class _Diffused(NamedTuple):
    """The mixture at a level, evaluated at one flattened x_t of d elements."""

    means: Array  # (K, d), of x_0
    variances: Array  # (K,), V_k
    gain: Array  # (K, 1), s_k^2 / V_k
    offsets: Array  # (K, d), x_t - alpha m_k
    logits: Array  # (K,), log p(k, x_t) - log_reference
    log_reference: Array  # log N(x_t; alpha centre, V_ref)

    @classmethod
    def at(cls, mixture: GaussianMixture, x_t: Array, level: NoiseLevel) -> "_Diffused":
        """Evaluate the mixture at one x_t, of this level."""
        weights, means, stds = (jnp.asarray(part) for part in mixture[:3])
        dtype = jnp.result_type(means, x_t, level.alpha)  # of the widest: a float64 x_t is exact at a float32 level too
        x, means = x_t.reshape(1, -1).astype(dtype), means.reshape(len(weights), -1).astype(dtype)
        weights, stds = weights.astype(dtype), stds.astype(dtype)
        alpha, sigma = jnp.asarray(level.alpha, dtype), jnp.asarray(level.sigma, dtype)
        power, widest = jnp.square(stds), jnp.square(stds).max()
        tiny = jnp.finfo(dtype).tiny
        variances = jnp.maximum(jnp.square(alpha) * power + jnp.square(sigma), tiny)
        reference = jnp.maximum(jnp.square(alpha) * widest + jnp.square(sigma), tiny)
        # log N(x_t; alpha m_k, V_k) relative to one broad normal around the mixture's centre. Every remaining term has a
        # factor alpha, so that the classifier's gradient, of order alpha, keeps its digits down to alpha = 5e-5.
        centre = (weights / weights.sum())[None] @ means
        spread, y = means - centre, x - alpha * centre
        excess = jnp.square(alpha) * (widest - power) / reference  # (V_ref - V_k) / V_ref
        linear = alpha * jnp.sum(y * spread, 1) - jnp.square(alpha) * jnp.sum(jnp.square(spread), 1) / 2
        distance = jnp.sum(jnp.square(y))
        log_widths = jnp.log1p(-jnp.minimum(excess, 1 - jnp.finfo(dtype).eps))
        log_weights = jnp.log(weights / weights.sum())
        logits = log_weights - x.size / 2 * log_widths + (linear - distance * excess / 2) / variances
        log_reference = -(distance / reference + x.size * jnp.log(2 * jnp.pi * reference)) / 2
        return cls(means, variances, (power / variances)[:, None], x - alpha * means, logits, log_reference)


def _members(mixture: GaussianMixture, label: Int[ArrayLike, ""] | None) -> Array:
    """Return whether each of the (K,) components is of the class. Raises ValueError for a concrete label that none has."""
    count = len(mixture.weights)
    if label is None:
        return jnp.ones(count, bool)
    labels = np.arange(count) if mixture.labels is None else mixture.labels
    try:  # in NumPy, since inside a jit an array of JAX made here would be traced
        member = np.asarray(labels) == np.asarray(label)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(labels) == label
    if not member.any():
        raise ValueError(f"no component of the mixture has the label {label}")
    return jnp.asarray(member)
