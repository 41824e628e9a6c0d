"""The loop: K examples from x_T down the levels, weighed at each, and resampled where their weights have become unequal.

Source: [SMC] Chopin & Papaspiliopoulos 2020, algorithm 10.3.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_key, check_number
from guided_jax.denoiser import Denoiser, cached, match_type
from guided_jax.forward import Normal
from guided_jax.numerics import narrow, narrow_like, ratio, root, widen
from guided_jax.particles.cloud import Cloud, effective_size, reweigh, systematic
from guided_jax.particles.potentials import Evaluation, Potential
from guided_jax.prediction import Prediction
from guided_jax.reverse.step import ReverseStep
from guided_jax.sampler import as_state, check_pure_noise, keys
from guided_jax.schedule import NoiseLevel, at


class _State(NamedTuple):
    """K examples on their way."""

    x_t: Array  # (K, *shape)
    memories: tuple[Any, ...]  # of the step, for each target and the proposal
    log_twist: Array  # (K,), the part of the weights that x_0 will replace
    log_weights: Array  # (K,), normalised
    log_evidence: Array


def sample(
    key,
    denoise: Denoiser,
    step: ReverseStep,
    x_T: Float[ArrayLike, "K *shape"],
    levels: NoiseLevel,
    potential: Potential,
    threshold: ArrayLike = 0.5,
    chunk: int | None = None,
) -> Cloud:
    """x_T -> K weighted x_0 of the law of `potential`, by one step from each level to the one below.

    A step is drawn from the guided law q(x_s | x_t) and has the factor p / q, p the unguided law, and psi(x_s) / psi(x_t),
    of the twists psi; at the end psi(x_0) is the true factor. So the law is exact as K grows, with p(x_0) as the step draws
    it: its error in few steps is not weighed. A step without variance, into the clean level, is the unguided one, as no
    weight could make up for another.
    key: a JAX key, of this problem; `jax.vmap` over problems gives each its own. The result depends neither on the other
        problems, nor on the devices that they are spread over.
    denoise: (x_t, level) -> Prediction, unguided: the potential guides.
    step: of `reverse`, one that draws from a normal law: ddpm, ddim(eta), dpm_solver(order, eta), reverse_sde(eta),
        classifier_ddpm, with eta above 0.
    x_T: (K, *shape), noise at the last level.
    levels: a table, the clean level first.
    potential: `particles.twisted`, `measurement`, `reward`, `corrected`, or your own.
    threshold: examples are resampled where the effective sample size falls below threshold K: 0 never, 1 always.
    chunk: how many examples the network gets at a time, to bound its memory; all if None.
    Returns a cloud.
    Raises ValueError for a step that does not draw from a normal law, and as `sampler.sample` does.
    """
    check_key(key)
    check_number("threshold", threshold)
    law = _law_of(step)
    denoise, given = match_type(denoise), levels
    x, levels = as_state(x_T, given)
    check_pure_noise(denoise, x[0], given)
    for_each: Callable[..., Any] = jax.vmap if chunk is None else partial(_in_chunks, chunk)
    evaluate = partial(_evaluate, potential, denoise)

    def body(state: _State, position: Array) -> tuple[_State, Array]:
        now, then = at(levels, position), at(levels, position - 1)
        key_resample, key_noise = jax.random.split(jax.random.fold_in(key, position))
        due = (len(levels.t) - 1 - position) % potential.every == 0
        found = for_each(lambda x_t: evaluate(x_t, now, due))(state.x_t)
        log_twist = jnp.where(due, found.log_twist, state.log_twist)
        weights = reweigh(state.log_weights, state.log_evidence, _gained(log_twist, state.log_twist))
        size = effective_size(weights[0])
        needed = due & (size < threshold * len(x))
        moving = (state.x_t, state.memories, log_twist, found)
        (x_t, memories, log_twist, found), log_weights = _resampled(key_resample, moving, weights[0], needed)
        elsewhere = lambda x_t, level: evaluate(x_t, level, True)  # noqa: E731
        move = for_each(partial(_move, law, potential, elsewhere, now, then))
        x_s, memories, log_ratio = move(keys(key_noise, jnp.arange(len(x))), x_t, memories, found)
        weights = reweigh(log_weights, weights[1], log_ratio)
        return narrow_like(_State(x_s, memories, log_twist, *weights), state), size

    none, equal = jnp.zeros(len(x), x.dtype), jnp.full(len(x), -math.log(len(x)), x.dtype)
    memories = (jax.vmap(step.init)(x),) * (len(potential.powers) + (potential.propose is None))
    start = _State(x, memories, none, equal, jnp.zeros((), x.dtype))
    state, sizes = jax.lax.scan(body, start, jnp.arange(len(levels.t) - 1, 0, -1))
    log_end = for_each(lambda x_0: jnp.asarray(potential.log_end(x_0, at(levels, 0)), x.dtype))(state.x_t)
    log_weights, log_evidence = reweigh(state.log_weights, state.log_evidence, _gained(log_end, state.log_twist))
    return Cloud(state.x_t, log_weights, log_evidence, jnp.append(sizes[1:], effective_size(log_weights)))


def _law_of(step: ReverseStep) -> Callable[..., tuple[Normal, Any]]:
    if step.law is None:
        raise ValueError(
            "the step does not draw from a normal law, by which particles are weighed; "
            "take ddpm(), ddim(eta), dpm_solver(order, eta) or reverse_sde(eta), with eta above 0"
        )
    return step.law


def _in_chunks(chunk: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """jax.vmap(function), for `chunk` examples at a time."""
    return lambda *args: jax.lax.map(lambda each: function(*each), args, batch_size=chunk)


def _evaluate(potential: Potential, denoise: Denoiser, x_t: Array, level: NoiseLevel, due: Any) -> Evaluation:
    """Return what the potential computes, in the type of x_t."""
    return narrow(widen(potential.evaluate(denoise, x_t, level, due)), x_t.dtype)


def _gained(log_twist: Array, before: Array) -> Array:
    """log_twist - before; an example that was impossible stays so."""
    return jnp.where(before == -jnp.inf, -jnp.inf, log_twist - before)


def _resampled(key, tree: Any, log_weights: Array, needed: Array) -> tuple[Any, Array]:
    """Return the leaves (K, ...) and weights, resampled where needed."""

    def resample(tree: Any) -> tuple[Any, Array]:
        chosen = systematic(key, log_weights)
        return jax.tree.map(lambda leaf: leaf[chosen], tree), jnp.full_like(log_weights, -math.log(len(log_weights)))

    return jax.lax.cond(needed, resample, lambda tree: (tree, log_weights), tree)


def _move(
    law: Callable[..., tuple[Normal, Any]],
    potential: Potential,
    evaluate: Callable[[Array, NoiseLevel], Evaluation],
    now: NoiseLevel,
    then: NoiseLevel,
    key,
    x_t: Array,
    memories: tuple[Any, ...],
    found: Evaluation,
) -> tuple[Array, tuple[Any, ...], Array]:
    """x_s ~ q, the memories, and sum_i powers_i log p_i(x_s) - log q(x_s), of one example.

    evaluate: (x_t, level) -> Evaluation, for a step that also calls its denoiser elsewhere.
    """
    laws, kept = [], []
    for place, prediction in enumerate(_predictions(found)):
        elsewhere = lambda x, level, place=place: _predictions(evaluate(x, level))[place]  # noqa: E731
        normal, memory = law(cached(prediction, x_t, now, elsewhere), x_t, memories[place], now, then)
        laws.append(normal)
        kept.append(memory)
    if potential.propose is not None:
        x_s, log_ratio = potential.propose(key, *laws, found.seen, now, then)
    else:
        x_s, log_ratio = _propose(key, laws[:-1], potential.powers, laws[-1])
    return x_s, tuple(kept), log_ratio


def _predictions(found: Evaluation) -> tuple[Prediction, ...]:
    return found.targets if found.proposal is None else (*found.targets, found.proposal)


def _propose(key, targets: list[Normal], powers: tuple[ArrayLike, ...], proposal: Normal) -> tuple[Array, Array]:
    """x_s as the step draws it from the proposal, and sum_i powers_i log p_i(x_s) - log q(x_s)."""
    noise = jax.random.normal(key, proposal.mean.shape, proposal.mean.dtype)
    ratios = [power * _log_ratio(target, proposal, noise) for power, target in zip(powers, targets, strict=True)]
    unguided = sum(power * target.mean for power, target in zip(powers, targets, strict=True))
    moves = proposal.variance > 0
    x_s = jnp.where(moves, proposal.mean + root(proposal.variance) * noise, unguided)
    return x_s, jnp.sum(jnp.stack(ratios))


def _log_ratio(target: Normal, proposal: Normal, noise: Array) -> Array:
    """log p(x) - log q(x) at x = mean_q + std_q noise; 0 for elements of no variance.

    (u + r z)^2 - z^2 is multiplied out, u = (mean_q - mean_p) / std_p, r = std_q / std_p: for equal variances z^2 drops
    out, and with it the rounding of large numbers.
    """
    std, wide = root(target.variance), root(proposal.variance)
    u, r = ratio(proposal.mean - target.mean, std), ratio(wide, std, at_zero=1.0)
    r = jnp.where(wide > 0, r, 1.0)
    terms = jnp.log(r) - (jnp.square(u) + 2 * u * r * noise + (jnp.square(r) - 1) * jnp.square(noise)) / 2
    return jnp.sum(jnp.where(wide > 0, terms, 0.0))
