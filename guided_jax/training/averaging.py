"""Averages of the parameters by a power of the step, and averages of other lengths reconstructed from them.

An exponential moving average has a constant length in steps; this one has a constant length sigma_rel relative to the
training so far. Two of them, stored every now and then, are enough to reconstruct that of any sigma_rel and step.

Source: [EDM2] Karras et al. 2312.02696 section 3 and appendix C.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

MAX_SIGMA_REL = 12**-0.5  # sigma_rel of the plain mean of all steps, gamma = 0
MAX_DEVIATION = 0.05  # of the sigma_rel that a mixture has from the one it is made for, relative


class AveragingState(NamedTuple):
    """The state of an optimizer, with the averages of the parameters that it updates."""

    inner: Any
    step: Int[Array, ""]
    averages: tuple[PyTree, ...]


def sigma_rel_of(gamma: ArrayLike) -> Float[np.ndarray, "..."]:
    """sigma_rel = sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2): a profile's standard deviation over t ([EDM2])."""
    gamma = np.asarray(gamma, np.float64)
    return np.asarray(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))


def gamma_of(sigma_rel: float) -> float:
    """The gamma of a sigma_rel: (gamma + 2)^2 (gamma + 3) = (gamma + 1) / sigma_rel^2 ([EDM2] algorithm 2).

    sigma_rel: above 0, up to 0.2886, the plain mean of all steps. Raises ValueError for another.
    """
    if not 0 < sigma_rel <= MAX_SIGMA_REL + 1e-4:
        raise ValueError(f"sigma_rel is {sigma_rel:g}; give a number above 0, up to 0.288, such as 0.1")
    square = sigma_rel**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def step_weight(step: Int[Array, ""], gamma: float) -> Float[Array, ""]:
    """1 - beta at step t = 1, 2, ..., with the decay beta = (1 - 1 / t)^(gamma + 1) of the average ([EDM2])."""
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / step))  # not 1 - beta, which loses digits when t is large


def with_averages(optimizer: optax.GradientTransformation, sigma_rels: Sequence[float]) -> optax.GradientTransformation:
    """theta_hat(t) = beta theta_hat(t - 1) + (1 - beta) theta(t) for each sigma_rel, beside the optimizer's own update.

    Return the optimizer that computes them. They are part of its state, an `AveragingState`: saved, restored and divided
    over devices with it.
    """
    gammas = [gamma_of(sigma_rel) for sigma_rel in sigma_rels]

    def init(params: PyTree) -> AveragingState:
        averages = tuple(jax.tree.map(jnp.copy, params) for _ in gammas)  # copies, so that all can be donated
        return AveragingState(optimizer.init(params), jnp.zeros((), jnp.int32), averages)

    def update(updates: PyTree, state: AveragingState, params: PyTree = None) -> tuple[PyTree, AveragingState]:
        updates, inner = optimizer.update(updates, state.inner, params)
        after, step = optax.apply_updates(params, updates), state.step + 1
        pairs = zip(gammas, state.averages, strict=True)
        averages = tuple(optax.incremental_update(after, one, step_weight(step, gamma)) for gamma, one in pairs)
        return updates, AveragingState(inner, step, averages)

    return optax.GradientTransformation(init, update)


def overlap(step_a: ArrayLike, gamma_a: ArrayLike, step_b: ArrayLike, gamma_b: ArrayLike) -> Float[np.ndarray, "..."]:
    """int p_a(x) p_b(x) dx of two profiles p(x) = (gamma + 1) x^gamma / t^(gamma + 1) on (0, t) ([EDM2]).

    With t the smaller step, T the larger and c the gamma of that: (a + 1) (b + 1) / (a + b + 1) (t / T)^c / T.
    """
    a, b, at, bt = (np.asarray(value, np.float64) for value in (gamma_a, gamma_b, step_a, step_b))
    longest, c = np.maximum(at, bt), np.where(at < bt, b, a)
    return np.asarray((a + 1) * (b + 1) / (a + b + 1) * (np.minimum(at, bt) / longest) ** c / longest)


def mixture(
    steps: Sequence[int], sigma_rels: Sequence[float], step: int, sigma_rel: float
) -> Float[np.ndarray, " snapshots"]:
    """Return the weights of stored averages whose sum is nearest to another: least squares of profiles ([EDM2] alg. 3).

    steps, sigma_rels: of each snapshot. step, sigma_rel: of the average to reconstruct. The weights add up to 1. Raises
    ValueError when no snapshot is as early as `step`.
    """
    if not len(steps) or min(steps) > step:
        raise ValueError(f"no average was stored up to step {step}; the stored ones are of {sorted(set(steps))}")
    t, gammas = np.asarray(steps, np.float64), np.array([gamma_of(one) for one in sigma_rels])
    gram = overlap(t[:, None], gammas[:, None], t, gammas)
    target = overlap(t, gammas, float(step), gamma_of(sigma_rel))
    # Many snapshots are nearly dependent: the least of all solutions amplifies their rounding least.
    weights = np.linalg.lstsq(gram, target, rcond=1e-12)[0]
    return weights / weights.sum()


def mixture_sigma_rel(steps: Sequence[int], sigma_rels: Sequence[float], weights: ArrayLike, step: int) -> float:
    """The standard deviation over t of sum_i w_i p_i(x), divided by `step`: the sigma_rel that a mixture has.

    Moments of p_i: t (gamma + 1) / (gamma + 2), t^2 (gamma + 1) / (gamma + 3). It is less than the sigma_rel that was
    requested where that is far from all stored ones, and nan where the variance comes out below 0.
    """
    t, w = np.asarray(steps, np.float64), np.asarray(weights, np.float64)
    gamma = np.array([gamma_of(one) for one in sigma_rels])
    mean = np.sum(w * t * (gamma + 1) / (gamma + 2))
    square = np.sum(w * t**2 * (gamma + 1) / (gamma + 3))
    return float(np.sqrt(square - mean**2)) / step if square >= mean**2 else float("nan")


def check_mixture(
    steps: Sequence[int], sigma_rels: Sequence[float], weights: ArrayLike, step: int, sigma_rel: float
) -> None:
    """Raise ValueError for a mixture whose own sigma_rel is more than 5 % from the one that it is made for."""
    actual = mixture_sigma_rel(steps, sigma_rels, weights, step)
    if not abs(actual / sigma_rel - 1) < MAX_DEVIATION:
        known = ", ".join(f"{sigma:g}" for sigma in sorted(set(sigma_rels)))
        raise ValueError(
            f"sigma_rel {sigma_rel:g} is too far from {known}, which were stored: "
            f"the average would have {actual:.3g}; give one nearer to them"
        )


def combine(snapshots: Iterable[PyTree], weights: Sequence[float] | Float[np.ndarray, " snapshots"]) -> PyTree:
    """Return the weighted sum of snapshots, leaf by leaf, computed in float64 on the host, as float32 arrays.

    snapshots: an iterable that is read once, so a generator may load one at a time. Raises ValueError when it is empty.
    """
    total = None
    for weight, snapshot in zip(weights, snapshots, strict=True):
        if total is None:
            total = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)), snapshot)
        for sums, leaf in zip(jax.tree.leaves(total), jax.tree.leaves(snapshot), strict=True):
            sums += weight * np.asarray(leaf, np.float64)
    if total is None:
        raise ValueError("there is no average to combine")
    return jax.tree.map(lambda sums: sums.astype(np.float32), total)
