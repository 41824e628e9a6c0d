"""The exact oracle: a labelled mixture of Gaussians, whose denoisers, noisy classifier, densities and posteriors have
closed forms.

Diffused, component k stays Gaussian: x_t | k ~ N(alpha m_k, V_k), V_k = alpha^2 C_k + sigma^2 I. Along the axes of C_k this
is one number an axis. Given y = A x_0 + noise, component k is Gaussian too, and k has other weights. Everything else is
Bayes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, ArrayLike, Float, Int, Num

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser
from guided_jax.numerics import LOG_TWO_PI, ratio, root
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb


class GaussianMixture(NamedTuple):
    """p(x_0) = sum_k weights_k N(x_0; means_k, C_k), C_k = stds_k^2 I or covariances_k, component k of class labels_k.

    weights: (K,), need not sum to 1.
    means: (K, *shape).
    stds: (K,).
    labels: (K,) int, each component its own class if None. The methods take a label that may be traced, and raise
        ValueError for a concrete one that no component has.
    covariances: (K, D, D), of x_0 as one vector of D elements, instead of stds. Their eigenvectors are computed where a
        method is called, once for all calls of the function that it returns.
    The methods raise ValueError for a mixture with both stds and covariances, or neither.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([0.1, 0.1]))
    >>> mixture.sample(jax.random.key(0), label=1).shape
    (2,)
    """

    weights: Num[Array, " K"]
    means: Num[Array, "K *shape"]
    stds: Num[Array, " K"] | None = None
    labels: Int[Array, " K"] | None = None
    covariances: Num[Array, "K D D"] | None = None

    def denoiser(self, label: Int[ArrayLike, ""] | None = None) -> Denoiser:
        """E[x_0 | x_t, label] and E[eps | x_t, label], each by its own formula, exact at both ends of a schedule.

        label: the class; None for all.
        Returns a denoiser.

        >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
        >>> level = gj.schedule.at(gj.schedule.cosine(1000), 990)  # almost pure noise: x_0 is the mean of the law
        >>> [round(float(mixture.denoiser(label)(jnp.zeros(1), level).x_0[0]), 2) for label in (None, 0, 1)]
        [0.0, -1.0, 1.0]
        """
        member, axes = _members(self, label), _Axes.of(self)

        def denoise(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
            mixture = _Diffused.at(self, axes, x_t, level)
            share = jax.nn.softmax(jnp.where(member, mixture.logits, -jnp.inf))[:, None]
            x_0 = jnp.sum(share * (mixture.means + axes.back(level.alpha * mixture.gain * mixture.offsets)), 0)
            eps = jnp.sum(share * axes.back(ratio(level.sigma, mixture.variances) * mixture.offsets), 0)
            return Prediction(x_0.reshape(x_t.shape), eps.reshape(x_t.shape))

        return denoise

    def log_prob(self, label: Int[ArrayLike, ""]) -> LogProb:
        """(x_t, level) -> log p(label | x_t): the exact noisy classifier. label: the class.

        >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
        >>> log_prob = mixture.log_prob(1)
        >>> round(float(jnp.exp(log_prob(jnp.zeros(1), gj.schedule.at(gj.schedule.cosine(1000), 500)))), 2)
        0.5
        """
        member, axes = _members(self, label), _Axes.of(self)

        def log_prob(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
            logits = _Diffused.at(self, axes, x_t, level).logits
            return jax.nn.logsumexp(jnp.where(member, logits, -jnp.inf)) - jax.nn.logsumexp(logits)

        return log_prob

    def log_density(self) -> Callable[[Array, NoiseLevel], Float[Array, ""]]:
        """(x_t, level) -> log p(x_t), in nats."""
        axes = _Axes.of(self)

        def log_density(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
            mixture = _Diffused.at(self, axes, x_t, level)
            return jax.nn.logsumexp(mixture.logits) + mixture.log_reference

        return log_density

    def sample(self, key, label: Int[ArrayLike, ""] | None = None) -> Float[Array, "*shape"]:
        """Draw one x_0, (*shape). key: a JAX key. label: the class; None for all."""
        check_key(key)
        axes = _Axes.of(self)
        key_component, key_noise = jax.random.split(key)
        means = jnp.asarray(self.means)
        log_weights = jnp.where(_members(self, label), jnp.log(jnp.asarray(self.weights)), -jnp.inf)
        k = jax.random.categorical(key_component, log_weights)
        dtype = jnp.result_type(
            means, jnp.asarray(self.stds if self.covariances is None else self.covariances), jnp.float32
        )
        noise = jax.random.normal(key_noise, means.shape[1:], dtype)
        spread = axes.of_one(k).back(root(axes.powers[k])[None] * noise.reshape(1, -1))
        return means[k] + spread.reshape(noise.shape).astype(dtype)

    def posterior(
        self, matrix: Num[ArrayLike, "m D"], y: Num[ArrayLike, " m"], noise_std: Num[ArrayLike, ""]
    ) -> "GaussianMixture":
        """p(x_0 | y) for y = A x_0 + noise_std n, n standard normal: again a mixture of K Gaussians, with covariances.

        N(m, C) becomes N(m + G (y - A m), (I - G A) C), G = C A^T (A C A^T + noise_std^2 I)^-1, and its weight is
        multiplied by N(y; A m, A C A^T + noise_std^2 I).
        matrix: A, (m, D), of x_0 as one vector.
        y: (m,), the measurement.
        noise_std: a number or traced value; 0 is allowed where A C A^T is regular for every component.
        Returns a mixture of the same shape and labels, in float64 where an argument or the mixture is.

        >>> prior = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([1.0]))
        >>> posterior = prior.posterior(jnp.array([[1.0, 1.0]]), jnp.array([3.0]), 1.0)
        >>> [round(float(value), 3) for value in (*posterior.means[0], *posterior.covariances[0, 0])]
        [1.0, 1.0, 0.667, -0.333]
        """
        found = _measure(self, matrix, y, noise_std)
        means = found.means + jnp.einsum("kdm,km->kd", found.gains, found.residuals, precision="highest")
        weights = jax.nn.softmax(jnp.log(_weights(self, means.dtype)) + found.log_evidence)
        return self._replace(
            weights=weights, means=means.reshape(self.means.shape), stds=None, covariances=found.covariances
        )

    def evidence(
        self, matrix: Num[ArrayLike, "m D"], y: Num[ArrayLike, " m"], noise_std: Num[ArrayLike, ""]
    ) -> Float[Array, ""]:
        """log p(y) = log sum_k weights_k N(y; A m_k, A C_k A^T + noise_std^2 I), in nats.

        matrix, y, noise_std: as for `posterior`.

        >>> prior = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([1.0]))
        >>> round(float(prior.evidence(jnp.array([[1.0, 1.0]]), jnp.array([3.0]), 1.0)), 4)  # log N(3; 0, 3)
        -2.9682
        """
        found = _measure(self, matrix, y, noise_std)
        return jax.nn.logsumexp(jnp.log(_weights(self, found.log_evidence.dtype)) + found.log_evidence)


class _Axes(NamedTuple):
    """C_k = axes_k diag(powers_k) axes_k^T: (K, D) variances along the columns of (K, D, D); None is the coordinates."""

    powers: Array
    axes: Array | None

    @classmethod
    def of(cls, mixture: GaussianMixture) -> "_Axes":
        """Return the axes of all components of the mixture."""
        if mixture.covariances is None:
            powers = jnp.square(_widest(_stds(mixture)))[:, None]
            return cls(jnp.broadcast_to(powers, (len(powers), _size(mixture))), None)
        powers, axes = jnp.linalg.eigh(_widest(_covariances(mixture)))
        return cls(jnp.maximum(powers, 0.0), axes)  # those of about 0 are rounded, to below 0 too

    def of_one(self, k: Array) -> "_Axes":
        """Return the axes of component k, as a mixture of one."""
        return _Axes(self.powers[k][None], None if self.axes is None else self.axes[k][None])

    def turn(self, x: Array) -> Array:
        """Return each row of x, or its one row, along the axes of its component."""
        return x if self.axes is None else jnp.einsum("kde,kd->ke", self.axes, self._rows(x), precision="highest")

    def back(self, x: Array) -> Array:
        """Return what `turn` made x of."""
        return x if self.axes is None else jnp.einsum("kde,ke->kd", self.axes, self._rows(x), precision="highest")

    def _rows(self, x: Array) -> Array:
        return jnp.broadcast_to(x, self.powers.shape)


class _Diffused(NamedTuple):
    """The mixture at a level, evaluated at one flattened x_t of d elements."""

    means: Array  # (K, d), of x_0
    variances: Array  # (K, d), of x_t along the axes of each component
    gain: Array  # (K, d), the share of C_k, over alpha^2, in them
    offsets: Array  # (K, d), x_t - alpha m_k along the axes
    logits: Array  # (K,), log p(k, x_t) - log_reference
    log_reference: Array  # log N(x_t; alpha centre, V_ref I)

    @classmethod
    def at(cls, mixture: GaussianMixture, axes: _Axes, x_t: Array, level: NoiseLevel) -> "_Diffused":
        """Evaluate the mixture at one x_t, of this level. axes: of the mixture."""
        means = jnp.asarray(mixture.means)
        dtype = jnp.result_type(means, x_t, level.alpha)  # of the widest: a float64 x_t is exact at a float32 level too
        x, means = x_t.reshape(1, -1).astype(dtype), means.reshape(len(means), -1).astype(dtype)
        axes = jax.tree.map(lambda part: part.astype(dtype), axes)
        weights, power = _weights(mixture, dtype), axes.powers
        alpha, sigma = jnp.asarray(level.alpha, dtype), jnp.asarray(level.sigma, dtype)
        tiny, widest = jnp.finfo(dtype).tiny, power.max()
        variances = jnp.maximum(jnp.square(alpha) * power + jnp.square(sigma), tiny)
        reference = jnp.maximum(jnp.square(alpha) * widest + jnp.square(sigma), tiny)
        # log N(x_t; alpha m_k, V_k) relative to one broad normal around the mixture's centre. Every remaining term has a
        # factor alpha, so that the classifier's gradient, of order alpha, keeps its digits down to alpha = 5e-5.
        centre = weights[None] @ means
        spread, y = axes.turn(means - centre), axes.turn(x - alpha * centre)
        excess = jnp.square(alpha) * (widest - power) / reference  # (V_ref - V_k) / V_ref
        linear = alpha * y * spread - jnp.square(alpha * spread) / 2
        log_widths = jnp.log1p(-jnp.minimum(excess, 1 - jnp.finfo(dtype).eps))
        terms = (linear - jnp.square(y) * excess / 2) / variances - log_widths / 2
        logits = jnp.log(weights) + jnp.sum(terms, 1)
        distance = jnp.sum(jnp.square(x - alpha * centre))
        log_reference = -(distance / reference + x.size * jnp.log(2 * jnp.pi * reference)) / 2
        return cls(means, variances, power / variances, axes.turn(x - alpha * means), logits, log_reference)


class _Measured(NamedTuple):
    """Each component given y, before the measurement has moved its mean."""

    means: Array  # (K, D)
    gains: Array  # (K, D, m)
    residuals: Array  # (K, m), y - A m_k
    covariances: Array  # (K, D, D), of x_0 given y
    log_evidence: Array  # (K,), log p(y | k)


def _measure(mixture: GaussianMixture, matrix: ArrayLike, y: ArrayLike, noise_std: ArrayLike) -> _Measured:
    covariances = _covariances(mixture)
    dtype = jnp.result_type(covariances, mixture.means, matrix, y, jnp.float32)
    a, seen, noise = jnp.asarray(matrix, dtype), jnp.asarray(y, dtype), jnp.square(jnp.asarray(noise_std, dtype))
    means = jnp.asarray(mixture.means, dtype).reshape(len(covariances), -1)

    def of_one(mean: Array, covariance: Array) -> tuple[Array, ...]:
        with jax.default_matmul_precision("highest"):
            shared = covariance @ a.T
            factor = jnp.linalg.cholesky(a @ shared + noise * jnp.eye(len(a), dtype=dtype))
            gain, residual = cho_solve((factor, True), shared.T).T, seen - a @ mean
            kept = jnp.eye(len(mean), dtype=dtype) - gain @ a
            # Joseph's form of (I - G A) C: symmetric, and exact to first order in the rounding of G.
            left = kept @ covariance @ kept.T + noise * gain @ gain.T
        white = solve_triangular(factor, residual, lower=True)
        log_width = 2 * jnp.sum(jnp.log(jnp.diagonal(factor))) + len(a) * LOG_TWO_PI
        return gain, residual, left, -(jnp.sum(jnp.square(white)) + log_width) / 2

    return _Measured(means, *jax.vmap(of_one)(means, covariances.astype(dtype)))


def _covariances(mixture: GaussianMixture) -> Array:
    """Return (K, D, D) covariances, also of a mixture with stds, in float32 at least."""
    if mixture.covariances is None:
        stds = _stds(mixture)
        eye = jnp.eye(_size(mixture), dtype=jnp.result_type(jnp.asarray(stds), jnp.float32))
        return jnp.square(stds)[:, None, None] * eye[None]
    if mixture.stds is not None:
        raise ValueError("the mixture has stds and covariances; give one of the two")
    return jnp.asarray(mixture.covariances, jnp.result_type(mixture.covariances, jnp.float32))


def _stds(mixture: GaussianMixture) -> Array:
    if mixture.stds is None:
        raise ValueError("the mixture has neither stds nor covariances; give one of the two")
    return jnp.asarray(mixture.stds)


def _size(mixture: GaussianMixture) -> int:
    """Return D, the number of elements of x_0."""
    return jnp.asarray(mixture.means)[0].size


def _weights(mixture: GaussianMixture, dtype: jnp.dtype) -> Array:
    """Return (K,) weights that sum to 1."""
    weights = jnp.asarray(mixture.weights, dtype)
    return weights / weights.sum()


def _widest(x: Array) -> Array:
    """Return x in float64 in 64-bit mode, where a float64 x_t is to be exact, and in float32 elsewhere."""
    return x.astype(jax.dtypes.canonicalize_dtype(np.float64))


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
