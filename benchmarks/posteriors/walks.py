"""T2: Gibbs sampling of random walks: E[x_0 | x_t] with its derivative for the methods, and exact draws given y.

A walk is the running sum of its increments. Given x_t, every x_0 of the walk is seen with independent noise, so that, with
known variances of the increments, a Kalman filter and smoother says all: mean, covariance and a draw. The mean and the
covariance of x_0 given x_t are those of the smoother, averaged over the variances that Gibbs sampling visits
(Rao-Blackwell), and the covariance is the derivative: alpha / sigma^2 Cov(x_0 | x_t) = dx_0 / dx_t (Tweedie).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.posteriors import spikes
from benchmarks.posteriors.laws import LENGTH, Law
from guided_jax import prediction
from guided_jax.denoiser import Denoiser
from guided_jax.numerics import ratio

TINY = 1e-30


def denoiser(law: Law, sweeps: int = 40, burn_in: int = 15) -> Denoiser:
    """E[x_0 | x_t] by Gibbs sampling, whose noise is a function of x_t; J u = alpha / sigma^2 Cov(x_0 | x_t) u."""

    @jax.custom_vjp
    def mean(x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return visited(law, x_t / alpha, jnp.square(sigma / alpha), sweeps, burn_in)[0].mean(0)

    def forward(x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        means, gains, last = visited(law, x_t / alpha, jnp.square(sigma / alpha), sweeps, burn_in)
        centred = means - means.mean(0, keepdims=True)
        covariance = centred.T @ centred / sweeps + covariances(gains, last)
        return means.mean(0), (covariance, alpha, sigma)

    def backward(kept: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        covariance, alpha, sigma = kept
        return alpha / jnp.square(sigma) * (covariance @ cotangent), jnp.zeros_like(alpha), jnp.zeros_like(sigma)

    mean.defvjp(forward, backward)

    def denoise(x_t: jax.Array, level: Any) -> prediction.Prediction:
        return prediction.from_x_0(mean(x_t, level.alpha, level.sigma), x_t, level)

    return denoise


def visited(
    law: Law, seen: jax.Array, noise: jax.Array, sweeps: int, burn_in: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Smoothed means, gains and variances (sweeps, length) of the walk that is seen with noise of this variance."""
    bits = jax.lax.bitcast_convert_type(seen.astype(jnp.float32), jnp.uint32)
    key = jax.random.fold_in(jax.random.key(0), jnp.sum(bits * jnp.arange(1, 2 * LENGTH, 2, dtype=jnp.uint32)))

    def sweep(
        state: tuple[jax.Array, jax.Array], key: Any
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
        walk, kept = state
        key_z, key_e, key_walk = jax.random.split(key, 3)
        z, e = jax.random.normal(key_z, (2, LENGTH)), jax.random.uniform(key_e, (2, LENGTH), minval=1e-7)
        variances = law.variance(jnp.diff(walk, prepend=0.0) * kept, z, e)
        if law.share < 1:
            uniforms = jax.random.uniform(jax.random.fold_in(key_e, 1), (LENGTH,))
            kept = spikes.draw(law.share, kept, variances, seen, noise, uniforms)
        walk, *smoothed = smooth(kept * variances, seen, noise, jax.random.normal(key_walk, (LENGTH,)))
        return (walk, kept), tuple(smoothed)

    # It starts at the increments of what is seen, shrunk to no more than the law's own where the noise is large.
    start = jnp.cumsum(jnp.diff(seen, prepend=0.0) * ratio(1.0, 1.0 + noise))
    state, _ = jax.lax.scan(sweep, (start, jnp.ones_like(start)), jax.random.split(jax.random.fold_in(key, 0), burn_in))
    return jax.lax.scan(sweep, state, jax.random.split(jax.random.fold_in(key, 1), sweeps))[1]


def smooth(
    variances: jax.Array, seen: jax.Array, noise: jax.Array, z: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A draw of the walk, its mean, the gains g_i and its variances, each (length,).

    Given the later ones x_i is normal, of mean m_i + g_i (x_{i+1} - m_i) and variance g_i times that of increment i + 1;
    m_i is the mean given x_t up to i.
    """

    def forward(carry: tuple[jax.Array, jax.Array], each: tuple[jax.Array, ...]) -> Any:
        mean, power = carry
        variance, value = each
        wide = power + variance
        gain = ratio(wide, wide + noise)
        found = mean + gain * (value - mean), gain * noise
        return found, found

    def backward(carry: tuple[jax.Array, ...], each: tuple[jax.Array, ...]) -> Any:
        walk, mean, power = carry
        filtered, own, onward, noise_here = each
        gain = ratio(own, own + onward)
        walk = filtered + gain * (walk - filtered) + jnp.sqrt(gain * onward) * noise_here
        mean = filtered + gain * (mean - filtered)
        power = jnp.square(gain) * power + gain * onward
        return (walk, mean, power), (walk, mean, gain, power)

    zero = jnp.zeros((), seen.dtype)
    (mean, power), (means, powers) = jax.lax.scan(forward, (zero, zero), (variances, seen))
    last = mean + jnp.sqrt(power) * z[-1], mean, power
    inputs = means[:-1], powers[:-1], variances[1:], z[:-1]
    _, found = jax.lax.scan(backward, last, inputs, reverse=True)
    walk, smoothed, gains, spread = (
        jnp.append(each, end) for each, end in zip(found, (last[0], mean, zero, power), strict=True)
    )
    return walk, smoothed, gains, spread


def covariances(gains: jax.Array, powers: jax.Array) -> jax.Array:
    """The mean over sweeps of Cov(x_i, x_j) = g_i g_{i+1} .. g_{j-1} Var(x_j), i <= j; gains, powers: (sweeps, length)."""
    steps = jnp.log(jnp.maximum(gains, TINY))
    until = jnp.cumsum(steps, 1) - steps  # sum of log g_k, k < j
    way = jnp.exp(jnp.minimum(until[:, None, :] - until[:, :, None], 0.0))  # (sweeps, i, j)
    upper = jnp.triu((way * powers[:, None, :]).mean(0))
    return upper + jnp.triu(upper, 1).T


def posterior_draws(
    law: Law, matrix: np.ndarray, y: np.ndarray, noise_std: float, rng: np.random.Generator, sweeps: int, burn_in: int
) -> np.ndarray:
    """Exact draws of the walks given y = A x_0 + noise, by long Gibbs sampling: (sweeps, n, length), in float64.

    matrix: A, (m, length). y: (n, m), one for each walk; give one several times for several chains.
    Of normal increments the draws need no chain, and are independent.
    """
    u, kept, found = np.zeros((len(y), LENGTH)), np.ones((len(y), LENGTH)), []
    if law.power is not None:
        return np.cumsum(given_variances(np.full_like(u[:1], law.power), matrix, y, noise_std, rng, sweeps), -1)
    for _ in range(burn_in + sweeps):
        z, e = rng.standard_normal((2, *u.shape)), 1 - rng.random((2, *u.shape))
        variances = law.variance(u, z, e)
        if law.share < 1:
            kept = spikes.draw_given(
                law.share, kept, variances, matrix @ np.tri(LENGTH), y, noise_std, rng.random(u.shape)
            )
        u = given_variances(kept * variances, matrix, y, noise_std, rng)[0]
        found.append(np.cumsum(u, 1))
    return np.stack(found[burn_in:])


def given_variances(
    variances: np.ndarray, matrix: np.ndarray, y: np.ndarray, noise_std: float, rng: np.random.Generator, count: int = 1
) -> np.ndarray:
    """Draw the increments given their variances and y, (count, n, length): draws of the prior, moved by what they miss.

    variances: (n, length), or (1, length) of all n.
    """
    steps = matrix @ np.tri(LENGTH)  # A, of the increments
    prior = np.sqrt(variances) * rng.standard_normal((count, len(y), LENGTH))
    missed = y - prior @ steps.T - noise_std * rng.standard_normal((count, *y.shape))
    weighted = steps[None] * variances[:, None, :]
    gains = np.linalg.solve(weighted @ steps.T + noise_std**2 * np.eye(len(matrix)), weighted)
    return prior + (missed[..., None, :] @ gains)[..., 0, :]
