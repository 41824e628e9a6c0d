"""Particles for a linear measurement, by the covariance of x_0 given x_t that the network itself implies.

Sources: [MMPS] Rozet et al. 2405.13712 for the covariance, [TDS] Wu et al. 2306.17775 for the weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.forward import Normal
from guided_jax.numerics import LOG_TWO_PI, is_traced, ratio, root
from guided_jax.operators import Operator
from guided_jax.particles.matrices import cholesky, eigh, solve_lower, solve_positive
from guided_jax.particles.potentials import Evaluation, Potential
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel

FLAT = 1e-6  # of the largest: what float32 does not tell from 0, as in `operators`


class _Seen(NamedTuple):
    """What y says of one x_t: A = mixing directions, whose rows are orthonormal, and along which x_0 is uncorrelated.

    residual: (m,), y - A x_0(x_t). mixing: (m, m). spread: (m,), variances of x_0 given x_t along the directions. pulled:
    (m, D), covariances of x_0 along the directions with x_0.
    """

    residual: Array
    mixing: Array
    spread: Array
    pulled: Array


def measurement(operator: Operator, y: Float[Array, "..."], noise_std: ArrayLike) -> Potential:
    """p(x_0) N(y; A x_0, noise_std^2 I), by the twist N(y; A x_0(x_t), noise_std^2 I + A V A^T), V = sigma^2 / alpha J.

    V, with J = dx_0 / dx_t, is the covariance of x_0 given x_t where the denoiser is exact (Tweedie), as in
    `guidance.mmps`: the twist is as sure of y as x_t is of x_0, where that of `particles.twisted` is as sure as if x_0 were
    known. The examples are drawn from p(x_s | x_t) times the twist of x_s, taken to be normal, with the V that x_s has for
    normal data. So for normal data of variance s^2 I, and a step that draws them without error, such as
    ddpm(optimal_variance(normal_spread(s))), every example has the same weight and every run finds p(y).
    operator: A, of `operators`; only its `forward` is read, whose derivative is A, also after a decoder.
    y: the measurement, of this problem.
    noise_std: of y, above 0, a number or traced value.
    Returns a potential, of one forward pass of the network and a backward pass for each element of y a step: for few
        measurements. The evidence is p(y).
    Raises ValueError for a noise_std of 0 or less.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([0.5, 0.5]))
    >>> levels, x_T = gj.schedule.respace(gj.schedule.cosine(1000), 20), jax.random.normal(jax.random.key(1), (64, 2))
    >>> total, y = jnp.array([[1.0, 1.0]]), jnp.array([0.7])
    >>> seen = gj.particles.measurement(gj.operators.matrix(total), y, 0.1)
    >>> cloud = gj.particles.sample(jax.random.key(0), mixture.denoiser(), gj.reverse.ddpm(), x_T, levels, seen)
    >>> bool(jnp.abs(cloud.log_evidence - mixture.evidence(total, y, 0.1)) < 0.2)
    True
    """
    check_number("noise_std", noise_std)
    if not is_traced(noise_std) and np.less_equal(noise_std, 0):
        raise ValueError(
            f"noise_std is {noise_std}; give a number above 0: examples are weighed by the noise's density"
        )

    def evaluate(denoise: Denoiser, x_t: Float[Array, "*shape"], level: NoiseLevel, due: ArrayLike) -> Evaluation:
        prediction, seen = _look(denoise, operator, y, x_t, level)
        factor = cholesky(_total(seen, seen.spread, noise_std))
        return Evaluation((prediction,), None, _log_normal(seen.residual, factor), seen)

    def propose(key, law: Normal, seen: _Seen, now: NoiseLevel, then: NoiseLevel) -> tuple[Array, Array]:
        rows, spread = _ahead(seen, now, then)
        std = jnp.broadcast_to(root(law.variance), law.mean.shape)
        slope = _times(seen.mixing, _limited(rows * std.reshape(1, -1), seen.spread))
        # With a wrong V the slope can exceed `own` so far that float32 loses `own` in their sum: no Cholesky factor exists.
        own = _total(seen, spread, noise_std, FLAT * jnp.sum(jnp.square(slope)))
        return _draw(key, law.mean, std, seen.residual, slope, own)

    def log_end(x_0: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        std = jnp.asarray(noise_std, x_0.dtype)
        residual = (y - operator.forward(x_0)) / std
        return -jnp.sum(jnp.square(residual)) / 2 - residual.size * (jnp.log(std) + LOG_TWO_PI / 2)

    return Potential(evaluate, log_end, propose=propose)


def _look(denoise: Denoiser, operator: Operator, y: Array, x_t: Array, level: NoiseLevel) -> tuple[Prediction, _Seen]:
    """Return the prediction at x_t, and what y says there; J is symmetric, so that its rows are backward passes.

    At high noise sigma^2 / alpha multiplies the small error of a network, and the variances are large and of either sign.
    Their absolute values are used: a negative variance taken as 0 would make the twist sure of x_0 along that direction.
    """

    def of(x: Array) -> tuple[Array, Prediction]:
        prediction = denoise(x, level)
        return prediction.x_0, prediction

    x_0, back, prediction = jax.vjp(of, x_t, has_aux=True)
    forward, adjoint = jax.vjp(operator.forward, x_0)
    size = forward.size
    (rows,) = jax.vmap(adjoint)(jnp.eye(size, dtype=forward.dtype).reshape(size, *forward.shape))
    (pulled,) = jax.vmap(back)(rows)
    gain = jnp.asarray(ratio(jnp.square(level.sigma), level.alpha), forward.dtype)
    rows, pulled = rows.reshape(size, -1), gain * pulled.reshape(size, -1)
    powers, turn = eigh(_times(rows, rows.T))
    widths = root(jnp.where(powers > FLAT * powers[-1], powers, 0.0))
    inward = ratio(1.0, widths)[:, None] * turn.T
    along = _times(inward, pulled)
    between = _times(along, _times(inward, rows).T)
    spread, turn_x = eigh((between + between.T) / 2)
    mixing = _times(turn * widths[None], turn_x)
    residual, pulled = jnp.ravel(y - forward), _times(turn_x.T, along)
    return prediction, _Seen(residual, mixing, jnp.abs(spread), jnp.where(spread < 0, -1, 1)[:, None] * pulled)


def _ahead(seen: _Seen, now: NoiseLevel, then: NoiseLevel) -> tuple[Array, Array]:
    """Return the rows dx_0 / dx_s along the directions and the spread given x_s, as for normal data.

    V_s^-1 = V_t^-1 + (alpha_s / sigma_s)^2 - (alpha_t / sigma_t)^2, with the directions of V_t, as far as A sees them.
    """
    power = jnp.square(then.sigma)
    fresh = jnp.square(then.alpha) - power * jnp.square(ratio(now.alpha, now.sigma))
    shrink = jnp.where(seen.spread > 0, ratio(jnp.ones_like(seen.spread), power + fresh * seen.spread), 0.0)
    return (then.alpha * shrink)[:, None] * seen.pulled, power * shrink * seen.spread


def _limited(rows: Array, spread: Array) -> Array:
    """Return the rows, each scaled down to a squared length of at most its spread.

    The squared length is the variance that a step adds to x_0 along a direction, at most the variance of x_0 given x_t.
    With longer rows, of a wrong V, the draw would fix pixels that y says nothing of.
    """
    length = jnp.sum(jnp.square(rows), 1)
    return rows * root(jnp.where(length > spread, ratio(spread, length), 1.0))[:, None]


def _total(seen: _Seen, spread: Array, noise_std: ArrayLike, least: ArrayLike = 0.0) -> Array:
    """(noise_std^2 + least) I + A V A^T, and what float32 may lose on the diagonal: the twist and the draw may be any."""
    covariance = _times(seen.mixing * spread[None], seen.mixing.T)
    noise = jnp.asarray(jnp.square(jnp.asarray(noise_std)), covariance.dtype)
    return covariance + (noise + least + FLAT * jnp.trace(covariance)) * jnp.eye(len(spread), dtype=covariance.dtype)


def _draw(key, mean: Array, std: Array, residual: Array, slope: Array, own: Array) -> tuple[Array, Array]:
    """Draw x_s = mean + std z with z ~ N(0, I) given residual = slope z + N(0, own); return log p(x_s) - log q(x_s) too.

    By Bayes' rule that is log N(residual; 0, slope slope^T + own) - log N(residual; slope z, own). z is drawn without
    the condition, and moved by what it misses of the residual.
    """
    key_x, key_y = jax.random.split(key)
    noise = jax.random.normal(key_x, mean.shape, mean.dtype)
    factor = cholesky(own)
    whole = cholesky(own + _times(slope, slope.T))
    missed = _times(slope, noise.reshape(-1)) + _times(factor, jax.random.normal(key_y, residual.shape, mean.dtype))
    z = noise.reshape(-1) + _times(solve_positive(whole, residual - missed), slope)
    log_ratio = _log_normal(residual, whole) - _log_normal(residual - _times(slope, z), factor)
    return mean + std * z.reshape(mean.shape), log_ratio


def _log_normal(residual: Array, factor: Array) -> Array:
    """log N(residual; 0, factor factor^T)."""
    white = solve_lower(factor, residual)
    return -jnp.sum(jnp.square(white) + LOG_TWO_PI) / 2 - jnp.sum(jnp.log(jnp.diagonal(factor)))


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
