"""How likely a clean example is: the variational bound of a chain, and the exact density of the probability flow.

All in nats, of one example; `bits_per_dim` converts to the papers' unit.

Sources: [DDPM] Ho et al. 2006.11239, [iDDPM] Nichol & Dhariwal 2102.09672, [ADM] Dhariwal & Nichol 2105.05233, [SDE]
Song et al. 2011.13456, [FFJORD] Grathwohl et al. 1810.01367.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Num

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser, match_type
from guided_jax.forward import Normal, diffuse, posterior
from guided_jax.prediction import Prediction
from guided_jax.reverse.ancestral import Variance, borrowed, variance_of
from guided_jax.sampler import as_state, check_pure_noise
from guided_jax.schedule import NoiseLevel, at, interpolate, levels_like

Decoder = Callable[[Array, Normal], Array]  # (x_0, the last step's law) -> log probability, summed
Field = Callable[[Array], Array]
Divergence = Callable[[Field, Array], tuple[Array, Array]]  # (field, y) -> field(y), its divergence


class Bound(NamedTuple):
    """-log p(x_0) <= terms.sum() + prior, in nats.

    terms: (T,), of each step, the noisiest first; the last one is the decoder's.
    prior: of the last level.
    mse_x_0, mse_eps: (T,), the squared error of the prediction at each step, the mean over the elements.
    """

    terms: Float[Array, " T"]
    prior: Float[Array, ""]
    mse_x_0: Float[Array, " T"]
    mse_eps: Float[Array, " T"]

    @property
    def total(self) -> Array:
        """terms.sum() + prior."""
        return jnp.sum(self.terms) + self.prior


def variational_bound(
    key,
    denoise: Denoiser,
    x_0: Num[ArrayLike, "*shape"],
    levels: NoiseLevel,
    variance: Variance = "small",
    decoder: Decoder | None = None,
    prior_std: ArrayLike | None = None,
) -> Bound:
    """sum_t KL(q(x_s | x_t, x_0) || p(x_s | x_t)) - log p(x_0 | x_1) + KL(q(x_T | x_0) || p(x_T)) ([DDPM] eq. 5).

    p(x_s | x_t) is the step of `reverse.ddpm(variance)`.
    key: a JAX key; one x_t is drawn for each step.
    denoise: (x_t, level) -> Prediction.
    x_0: (*shape).
    levels: a table, the clean level first.
    variance: as for `reverse.ddpm`.
    decoder: `discretized` if None, for pictures of 256 grey values in [-1, 1]; `continuous` for a density.
    prior_std: of p(x_T) = N(0, prior_std^2); sigma_T if None, from which `sampler.sample` starts; [ADM] has 1.
    Returns a Bound, in nats, in float32, or in float64 for a float64 x_0.
    Raises ValueError for a network of eps or the score where the table has alpha = 0.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> x_0, levels = jnp.array([0.2, -0.4]), gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> bound = gj.likelihood.variational_bound(jax.random.key(0), mixture.denoiser(), x_0, levels)
    >>> bound.terms.shape, bool(bound.total > 0)
    ((4,), True)
    """
    check_key(key)
    denoise, given = match_type(denoise), levels
    x_0, levels = as_state(x_0, given)
    check_pure_noise(denoise, x_0, given)

    def term(position: Array) -> tuple[Array, Array, Array]:
        now = at(levels, position)
        eps = jax.random.normal(jax.random.fold_in(key, position), x_0.shape, x_0.dtype)
        x_t = diffuse(x_0, eps, now)
        prediction = denoise(x_t, now)
        mse_x_0, mse_eps = (jnp.mean(jnp.square(error)) for error in (prediction.x_0 - x_0, prediction.eps - eps))
        return step_bound(prediction, x_t, x_0, position, levels, variance, decoder), mse_x_0, mse_eps

    noise, positions = at(levels, -1), jnp.arange(len(levels.t) - 1, 0, -1)
    width = jnp.square(jnp.asarray(noise.sigma if prior_std is None else prior_std))
    prior = normal_kl(Normal(noise.alpha * x_0, jnp.square(noise.sigma)), Normal(jnp.zeros_like(x_0), width))
    terms, mse_x_0, mse_eps = jax.lax.map(term, positions)
    return Bound(terms, prior, mse_x_0, mse_eps)


def step_bound(
    prediction: Prediction,
    x_t: Float[Array, "*shape"],
    x_0: Float[Array, "*shape"],
    position: Int[ArrayLike, ""],
    levels: NoiseLevel,
    variance: Variance = "small",
    decoder: Decoder | None = None,
) -> Float[Array, ""]:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), and -log p(x_0 | x_t) for the step into the clean level: nats.

    prediction: of x_t.
    x_t, x_0: (*shape).
    position: of x_t in the table, at least 1; the step goes to the level below.
    levels, variance, decoder: as for `variational_bound`.
    """
    now, then = at(levels, position), at(levels, jnp.asarray(position) - 1)
    before = at(levels, jnp.minimum(jnp.asarray(position) + 1, len(levels.t) - 1))
    previous = posterior(x_t, x_0, before, now).variance  # the memory that a run of ddpm has from the step before
    predicted, truth = posterior(x_t, prediction.x_0, now, then), posterior(x_t, x_0, now, then)
    var = jnp.asarray(variance_of(variance)(prediction, now, then, predicted.variance, previous))
    # The step into the clean level needs a width: where its own variance is 0, that of the step before, as in ADM.
    model = Normal(predicted.mean, jnp.where(var > 0, var, borrowed(now, then, predicted.variance, previous)))
    last = jnp.asarray(position) == 1
    kl = normal_kl(Normal(truth.mean, jnp.where(last, 1.0, truth.variance)), model)
    return jnp.where(last, -(discretized if decoder is None else decoder)(x_0, model), kl)


def normal_kl(first: Normal, second: Normal) -> Float[Array, ""]:
    """KL(first || second) = sum (log v_2 / v_1 + (v_1 + (m_1 - m_2)^2) / v_2 - 1) / 2 of two normal laws, in nats."""
    gap = jnp.square(first.mean - second.mean)
    each = jnp.log(second.variance) - jnp.log(first.variance) + (first.variance + gap) / second.variance - 1
    return jnp.sum(jnp.broadcast_to(each, gap.shape)) / 2


def continuous(x_0: Float[Array, "*shape"], law: Normal) -> Float[Array, ""]:
    """log N(x_0; mean, variance), a density, in nats. x_0: (*shape). law: of the last step."""
    each = jnp.square(x_0 - law.mean) / law.variance + jnp.log(2 * jnp.pi * law.variance)
    return -jnp.sum(each) / 2


def discretized(x_0: Float[Array, "*shape"], law: Normal) -> Float[Array, ""]:
    """log P(x_0 - 1/255 < x < x_0 + 1/255), the grey value of x_0; open at -1 and at 1 ([DDPM] eq. 13).

    x_0: (*shape), grey values in [-1, 1].
    law: of x, the last step's. The normal distribution function is approximated by a tanh, as in [iDDPM]'s code, so
        that the numbers compare with those of its papers.
    Returns the sum over the elements, in nats.
    """
    std, floor = jnp.sqrt(law.variance), 1e-12
    below, above = _cdf((x_0 - law.mean - 1 / 255) / std), _cdf((x_0 - law.mean + 1 / 255) / std)
    probability = jnp.where(x_0 < -0.999, above, jnp.where(x_0 > 0.999, 1 - below, above - below))
    return jnp.sum(jnp.log(jnp.maximum(probability, floor)))


def _cdf(x: Array) -> Array:
    return (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def bits_per_dim(nats: Float[ArrayLike, "*n"], size: int) -> Float[Array, "*n"]:
    """nats / (size log 2), of -log p.

    nats: a number or an array.
    size: the number of elements of an example. For a density of pictures in [-1, 1], add log2(127.5), for the width of
        a grey value.
    """
    return jnp.asarray(nats) / (size * math.log(2))


def flow(denoise: Denoiser, table: NoiseLevel) -> Callable[[Array, Array], Array]:
    """(y, angle) -> dy / d angle = cos(angle) eps - sin(angle) x_0: the probability flow ([SDE] eq. 13) as a rotation.

    y = x_t / sqrt(alpha^2 + sigma^2) and angle = arctan(sigma / alpha), from 0, clean, to pi / 2, pure noise; for VP y
    is x_t and the velocity is v. Well conditioned at both ends, unlike the flow in t or in sigma.
    denoise: (x_t, level) -> Prediction.
    table: the full table, between whose levels `interpolate` finds the network's t.
    """

    def velocity(y: Float[Array, "*shape"], angle: Float[Array, ""]) -> Float[Array, "*shape"]:
        cos = jnp.maximum(jnp.cos(angle), 1e-30)  # in float32 cos(pi / 2) is slightly negative
        level = interpolate(table, 2 * (jnp.log(cos) - jnp.log(jnp.sin(angle))))
        prediction = denoise(y * jnp.hypot(level.alpha, level.sigma), level)
        return jnp.cos(angle) * prediction.eps - jnp.sin(angle) * prediction.x_0

    return velocity


def log_density(
    denoise: Denoiser,
    x: Num[ArrayLike, "*shape"],
    levels: NoiseLevel,
    table: NoiseLevel | None = None,
    divergence: Divergence | None = None,
) -> Float[Array, ""]:
    """log p(x) = log N(y_T; 0, sin^2) + int div v d angle along the probability flow ([SDE] eq. 39), then / scale^d.

    denoise: (x_t, level) -> Prediction.
    x: (*shape), at the first level of `levels`: x_0 at the clean level. A network of discrete steps is not trained
        below its first noisy level, so cut the clean level off.
    levels: a grid; between two levels one step of Runge-Kutta's method of order 4, with four calls of the network and
        their backward passes.
    table: the full table; `levels` itself if None.
    divergence: `exact_divergence` if None, with as many backward passes as x has elements; or `hutchinson(key)`.
    Returns log p(x), in nats, in float32, or in float64 for a float64 x.
    Raises ValueError for a network of eps or the score where `levels` has alpha = 0.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.ones(1))
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 8)
    >>> log_p = gj.likelihood.log_density(mixture.denoiser(), jnp.zeros(2), levels)
    >>> round(float(log_p), 2)  # -log(2 pi), of a standard normal law of two dimensions
    -1.84
    """
    denoise, given = match_type(denoise), levels
    x, levels = as_state(x, given)
    check_pure_noise(denoise, x, given)
    full = levels if table is None else levels_like(table, x.dtype)
    velocity, div = flow(denoise, full), divergence or exact_divergence
    angles = jnp.arctan2(jnp.asarray(levels.sigma), jnp.asarray(levels.alpha))
    scale = jnp.hypot(jnp.asarray(levels.alpha)[0], jnp.asarray(levels.sigma)[0])

    def both(y: Array, angle: Array) -> tuple[Array, Array]:
        # At angle 0 nothing is noise, whatever a network predicts there: the velocity and its divergence are 0.
        moved = div(lambda y: velocity(y, jnp.maximum(angle, 1e-6)), y)
        return jax.tree.map(lambda part: jnp.where(angle > 0, part, 0.0).astype(y.dtype), moved)

    def interval(carry: tuple[Array, Array], ends: tuple[Array, Array]):
        return _runge_kutta(both, carry, *ends), None

    start = (x / scale, jnp.zeros_like(x, shape=()))
    (y, gained), _ = jax.lax.scan(interval, start, (angles[:-1], angles[1:]))
    prior = continuous(y, Normal(jnp.zeros_like(y), jnp.square(jnp.sin(angles[-1]))))
    return prior + gained - x.size * jnp.log(scale)


def _runge_kutta(both, carry: tuple[Array, Array], start: Array, end: Array) -> tuple[Array, Array]:
    """(y, log) after one step of the classical method of order 4."""
    (y, log), h = carry, end - start
    k1, d1 = both(y, start)
    k2, d2 = both(y + h / 2 * k1, start + h / 2)
    k3, d3 = both(y + h / 2 * k2, start + h / 2)
    k4, d4 = both(y + h * k3, end)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), log + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


def _like(direction: Array, value: Array) -> Array:
    """Return a direction with the type of `value`, and placed as it is on a mesh: what its VJP takes."""
    return direction.astype(value.dtype) + jnp.zeros_like(value)


def exact_divergence(field: Field, y: Float[Array, "*shape"]) -> tuple[Array, Array]:
    """(field(y), sum_i d field_i / d y_i), by one backward pass for each element of y (*shape): for small shapes."""
    value, back = jax.vjp(field, y)
    basis = jnp.eye(y.size, dtype=y.dtype)
    diagonal = jax.vmap(lambda row: jnp.vdot(row, back(_like(row.reshape(y.shape), value))[0].reshape(-1)))(basis)
    return value, jnp.sum(diagonal)


def hutchinson(key, probes: int = 1) -> Divergence:
    """E r^T J r over random signs r: Hutchinson's estimate of the divergence ([FFJORD]).

    key: a JAX key; r is the same all along one path.
    probes: how many r are averaged.
    Returns a divergence for `log_density`.
    """
    check_key(key)

    def divergence(field: Field, y: Float[Array, "*shape"]) -> tuple[Array, Array]:
        value, back = jax.vjp(field, y)
        signs = jax.random.rademacher(key, (probes, *y.shape), y.dtype)
        return value, jnp.mean(jax.vmap(lambda r: jnp.vdot(r, back(_like(r, value))[0]))(signs))

    return divergence
