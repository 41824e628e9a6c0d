"""Targets of particles: a potential says which law examples are drawn for, and how they are guided towards it.

Sources: [TDS] Wu et al. 2306.17775, [FKS] Singhal et al. 2501.06848, [FKC] Skreta et al. 2503.02819.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference, by_score
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb


class Evaluation(NamedTuple):
    """The result of a potential at one x_t.

    targets: predictions; the target's law of the next step is the product of the laws that a step makes of each, to the
        powers of the potential.
    proposal: the prediction from which the step draws; None where the potential has a draw of its own.
    log_twist: scalar, log of the estimate, from x_t, of the factor that x_0 will have.
    seen: what that draw needs, a pytree of arrays.
    """

    targets: tuple[Prediction, ...]
    proposal: Prediction | None
    log_twist: Float[Array, ""]
    seen: Any = ()


class Potential(NamedTuple):
    """A target law of x_0: prod_i p_i(x_0)^powers_i times exp(log_end(x_0)), up to a constant.

    evaluate: (denoise, x_t, level, due) -> Evaluation, of one example. due: a bool array; log_twist is not read where it is
        False.
    log_end: (x_0, level) -> scalar, with the clean level.
    powers: of the targets; they sum to 1.
    every: steps from one weighing and resampling to the next, in which the twist is not read.
    propose: (key, law, seen, now, then) -> (x_s, log p(x_s) - log q(x_s)), a draw in the place of the step's, p the law of
        the one target; x_s has to be p's mean where p has no variance.
    """

    evaluate: Callable[..., Evaluation]
    log_end: Callable[[Array, NoiseLevel], Array]
    powers: tuple[ArrayLike, ...] = (1.0,)
    every: int = 1
    propose: Callable[..., tuple[Array, Array]] | None = None


def twisted(log_prob: LogProb) -> Potential:
    """p(x_0) p(y | x_0), by the twist p(y | x_0(x_t)) and its score: the twisted diffusion sampler ([TDS] eq. 8 to 10).

    Exact as K grows, for any log_prob. The twist takes x_0 to be known where x_t is: for a precise measurement it is far
    too sure at high noise, where all examples but one lose their weight; `particles.measurement` then needs far fewer.
    log_prob: (x_0, level) -> log p(y | x_0), a scalar; at the predicted x_0 with the level of x_t, and at the end at x_0
        itself with the clean level. The evidence is E[exp(log_prob(x_0))], p(y) where log_prob has its constants.
    Returns a potential, of one forward and one backward pass of the network a step.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.3, 0.3]))
    >>> levels, x_T = gj.schedule.respace(gj.schedule.cosine(1000), 20), jax.random.normal(jax.random.key(1), (64, 1))
    >>> right = gj.particles.twisted(lambda x_0, level: 2 * x_0[0])
    >>> cloud = gj.particles.sample(jax.random.key(0), mixture.denoiser(), gj.reverse.ddpm(), x_T, levels, right)
    >>> bool(jnp.exp(cloud.log_weights) @ cloud.x_0[:, 0] > 0.5)
    True
    """

    def evaluate(denoise: Denoiser, x_t: Float[Array, "*shape"], level: NoiseLevel, due: ArrayLike) -> Evaluation:
        def of(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, level)
            return log_prob(prediction.x_0, level), prediction

        (log_twist, prediction), gradient = jax.value_and_grad(of, has_aux=True)(x_t)
        return Evaluation((prediction,), by_score(prediction, gradient, level), log_twist)

    return Potential(evaluate, log_prob)


def classifier(log_prob: LogProb, scale: ArrayLike = 1.0, log_end: LogProb | None = None) -> Potential:
    """p(x_0) p(y | x_0)^scale, by the twist p(y | x_t)^scale of a noisy classifier and its gradient ([TDS] eq. 8 to 10).

    For an exact classifier and scale 1 this twist is the best that there is, p(y | x_t) itself: weights differ by what the
    steps leave out alone. Drawn by classifier guidance.
    log_prob: (x_t, level) -> log p(y | x_t), a scalar, of x_t itself, not of the predicted x_0.
    scale: number or traced value.
    log_end: (x_0, level) -> log p(y | x_0), with the clean level; log_prob if None, which then has to take that level.
    Returns a potential, of one forward pass of the network and one forward and backward pass of the classifier a step. The
        evidence is E[p(y | x_0)^scale].

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.3, 0.3]))
    >>> levels, x_T = gj.schedule.respace(gj.schedule.cosine(1000), 20), jax.random.normal(jax.random.key(1), (64, 1))
    >>> right = gj.particles.classifier(mixture.log_prob(1))
    >>> cloud = gj.particles.sample(jax.random.key(0), mixture.denoiser(), gj.reverse.ddpm(), x_T, levels, right)
    >>> bool(jnp.abs(jnp.exp(cloud.log_evidence) - 0.5) < 0.1)
    True
    """
    check_number("scale", scale)
    at_end = log_prob if log_end is None else log_end

    def evaluate(denoise: Denoiser, x_t: Float[Array, "*shape"], level: NoiseLevel, due: ArrayLike) -> Evaluation:
        prediction = denoise(x_t, level)
        log_twist, gradient = jax.value_and_grad(lambda x: jnp.asarray(scale * log_prob(x, level)))(x_t)
        return Evaluation((prediction,), by_score(prediction, gradient, level), log_twist)

    return Potential(evaluate, lambda x_0, level: jnp.asarray(scale * at_end(x_0, level)))


def reward(reward: Callable[[Array], Array], strength: ArrayLike = 1.0, every: int = 1) -> Potential:
    """p(x_0) exp(strength reward(x_0)), by resampling alone: Feynman-Kac steering, no gradient ([FKS] algorithm 1).

    The factor of each step is exp(strength (reward(x_0(x_s)) - reward(x_0(x_t)))), the paper's "difference"; an example
    that is not resampled keeps its weight. The evidence is E[exp(strength reward(x_0))].
    reward: x_0 -> scalar, finite: an example whose reward is -inf on the way is lost, whatever it would become.
    strength: number or traced value, the paper's lambda.
    every: steps from one reward and resampling to the next.
    Returns a potential, of one forward pass of the network a step.
    Raises ValueError for `every` below 1.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.3, 0.3]))
    >>> levels, x_T = gj.schedule.respace(gj.schedule.cosine(1000), 20), jax.random.normal(jax.random.key(1), (64, 1))
    >>> right = gj.particles.reward(lambda x_0: x_0[0], strength=2.0, every=2)
    >>> cloud = gj.particles.sample(jax.random.key(0), mixture.denoiser(), gj.reverse.ddpm(), x_T, levels, right)
    >>> bool(jnp.exp(cloud.log_weights) @ cloud.x_0[:, 0] > 0.5)
    True
    """
    check_number("strength", strength)
    if every < 1:
        raise ValueError(f"every is {every}; give at least 1")

    def log_end(x_0: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        return jnp.asarray(strength * reward(x_0), x_0.dtype)

    def evaluate(denoise: Denoiser, x_t: Float[Array, "*shape"], level: NoiseLevel, due: ArrayLike) -> Evaluation:
        prediction = denoise(x_t, level)
        weigh = lambda x_0: log_end(x_0, level)  # noqa: E731
        log_twist = jax.lax.cond(due, weigh, lambda x_0: jnp.zeros((), x_0.dtype), prediction.x_0)
        return Evaluation((prediction,), prediction, log_twist)

    return Potential(evaluate, log_end, every=every)


def corrected(unconditional: Denoiser, conditional: Denoiser, scale: ArrayLike) -> Potential:
    """p(x_0)^(1 - scale) p(x_0 | c)^scale itself, not what classifier-free guidance makes of it ([FKC] proposition 3.1).

    Drawn by classifier-free guidance, with the factor p(x_s | x_t)^(1 - scale) p(x_s | x_t, c)^scale / q(x_s | x_t) of
    the laws of the step: exp(scale (scale - 1) |m_c - m_u|^2 / (2 variance)) of their means, which is the paper's
    1/2 G_t^2 scale (scale - 1) |s_c - s_u|^2 dt in the limit of small steps. The step into the clean level, which has no
    variance, has no factor.
    unconditional, conditional: denoisers. The `denoise` of `particles.sample` is not called.
    scale: number or traced value; no function of the level, for which the target would change from level to level.
    Returns a potential, of one pass of both denoisers a step. The evidence is that of the law: the integral of the product.

    >>> broad, narrow = (gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([s])) for s in (1.4, 1.0))
    >>> levels, x_T = gj.schedule.respace(gj.schedule.cosine(1000), 20), jax.random.normal(jax.random.key(1), (64, 1))
    >>> exact = gj.particles.corrected(broad.denoiser(), narrow.denoiser(), 3.0)
    >>> gj.particles.sample(jax.random.key(0), broad.denoiser(), gj.reverse.ddpm(), x_T, levels, exact).ess.shape
    (20,)
    """
    check_number("scale", scale)

    def evaluate(denoise: Denoiser, x_t: Float[Array, "*shape"], level: NoiseLevel, due: ArrayLike) -> Evaluation:
        u, c = unconditional(x_t, level), conditional(x_t, level)
        return Evaluation((u, c), by_difference(u, c, u, scale), jnp.zeros((), x_t.dtype))

    return Potential(evaluate, lambda x_0, level: jnp.zeros((), x_0.dtype), (jnp.subtract(1.0, scale), scale))
