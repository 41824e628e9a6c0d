"""DPM-Solver++: exponential integrators that predict x_0, and their stochastic forms.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t and H = (1 + eta) h, exactly

    x_s = sigma_s / sigma_t e^(-eta h) x_t + alpha_s int_0^1 H e^(-H (1 - u)) x_0(lambda_t + u h) du
          + sigma_s sqrt(1 - e^(-2 eta h)) noise

and the methods differ in how they approximate x_0(lambda) within the step. eta 0 is the probability flow, 1 the reverse
SDE. The step into the clean level, where lambda is infinite, gives the predicted x_0 itself.

Source: [DPM++] Lu et al. 2211.01095.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.forward import Normal
from guided_jax.numerics import narrow, ratio, root
from guided_jax.reverse.multistep import (
    check_choice,
    check_order,
    empty,
    exponential_moments,
    half_log_snr,
    mix,
    nodes_of,
    remember,
    steps_left,
)
from guided_jax.reverse.step import ReverseStep, from_law, is_stochastic, no_memory
from guided_jax.schedule import NoiseLevel, interpolate, is_clean


class Leg(NamedTuple):
    """Coefficients of a step from one level to another: x_s = kept x_t + gain int kernel x_0 + std noise."""

    kept: Array
    gain: Array
    std: Array
    h: Array
    H: Array


def leg(now: NoiseLevel, then: NoiseLevel, eta: ArrayLike = 0.0) -> Leg:
    """The coefficients of the exact solution from `now` to `then` ([DPM++] eq. 8, for eta = 1 its SDE)."""
    h = half_log_snr(then) - half_log_snr(now)
    noise = jnp.asarray(eta) * h
    kept = ratio(then.sigma, now.sigma, at_zero=1.0) * jnp.exp(-noise)
    std = then.sigma * root(-jnp.expm1(-2 * noise))
    return Leg(kept, jnp.asarray(then.alpha), std, h, h + noise)


def dpm_solver(
    order: int = 2, eta: ArrayLike = 0.0, solver_type: str | None = None, run: NoiseLevel | None = None
) -> ReverseStep:
    """x_0(u) is the polynomial through the last `order` predictions: DPM-Solver++ 2M ([DPM++] algorithm 2), 3M, or 1.

    order: 2 for guided sampling, 3 for unguided, or 1.
    eta: number or traced value; 0 the ODE, 1 SDE-DPM-Solver++. One call of the network a step; order 3 makes its first
        step with two, as a first step of order 1 would lower the order of the run. Order 2 weights the slope by the
        paper's midpoint rule (1 - e^-H) / 2, order 3 by the exact integral.
    solver_type: "midpoint" or "heun" for the numbers of the authors' code and of diffusers: the slope of two predictions
        by the midpoint rule or by the exact integral, half of the curvature of three, and one call at the first step too,
        of order 1. With them order 3 has errors of order 2.
    run: the levels of the run, to end it with a step of order 1 after one of order 2 at most, which is stabler in few
        steps.
    Returns a ReverseStep.
    Raises ValueError for any other order or solver_type.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.full((1, 2), 0.5), jnp.array([0.01]))
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 6)
    >>> x_0 = gj.sampler.sample(jax.random.key(0), mixture.denoiser(), gj.reverse.dpm_solver(2), jnp.ones(2), levels)
    >>> bool(jnp.allclose(x_0, 0.5, atol=0.1))
    True
    """
    check_order(order)
    check_number("eta", eta)
    check_choice("solver_type", solver_type, (None, "midpoint", "heun"))

    def law(denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x_0, way = denoise(x_t, now).x_0, leg(now, then, eta)
        history = remember(memory, x_0, half_log_snr(now))
        count = jnp.minimum(history.made, steps_left(run, now, order))
        nodes = nodes_of(history.places, history.places[0], way.h)
        target = mix(history.values, nodes, _moments(way.H, order, solver_type), count)
        if order == 3 and solver_type is None:
            target = first_step_twice(denoise, x_t, x_0, target, way, then, history.made == 1)
        mean = way.kept * x_t + way.gain * jnp.where(is_clean(then), x_0, target)
        return Normal(mean, jnp.square(way.std)), history

    return from_law(lambda x_T: empty(x_T, order), law, is_stochastic(eta))


def _moments(H: Array, order: int, solver_type: str | None) -> Callable[[int], list[Array]]:
    """Return size -> the moments of the polynomial through that many predictions."""
    exact = exponential_moments(H, order)
    midpoint = solver_type == "midpoint" or (solver_type is None and order == 2)

    def of_size(size: int) -> list[Array]:
        if size == 2 and midpoint:
            return [exact[0], exact[0] / 2]
        if size == 3 and solver_type is not None:
            return [*exact[:2], exact[2] / 2]
        return exact

    return of_size


def first_step_twice(
    denoise: Denoiser, x_t: Array, x_0: Array, target: Array, way: Leg, then: NoiseLevel, first: Array
) -> Array:
    """On the first step, the integral of the line through x_0 and the prediction after a step of order 1; else `target`.

    denoise: the denoiser, called at x_s of order 1 if this step is the first.
    way: the coefficients of the step from x_t to the level `then`.
    """

    def twice(target: Array) -> Array:
        there = denoise(way.kept * x_t + way.gain * target, then).x_0
        both = jnp.stack([x_0, there])
        exact = exponential_moments(way.H, 2)
        return mix(both, jnp.array([0.0, 1.0], way.H.dtype), lambda size: exact, jnp.asarray(2))

    return jax.lax.cond(first & ~is_clean(then), twice, lambda target: target, target)


def dpm_solver_2s(levels: NoiseLevel, eta: ArrayLike = 0.0) -> ReverseStep:
    """x_0(u) is the prediction at the middle of the step in lambda: DPM-Solver++(2S) ([DPM++] algorithm 1, r = 1/2).

    levels: the full table, as the middle lies between two levels of the run.
    eta: number or traced value; the noise at the middle is part of the noise at the end. Two calls of the network a
        step, one into the clean level.
    Returns a ReverseStep without memory.
    """
    check_number("eta", eta)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x_0 = denoise(x_t, now).x_0
        noise, more = _two_noises(key, x_t) if is_stochastic(eta) else (0.0, 0.0)

        def halfway(x_0: Array) -> Array:
            middle = narrow(interpolate(levels, half_log_snr(now) + half_log_snr(then)), x_t.dtype)
            first, second, whole = leg(now, middle, eta), leg(middle, then, eta), leg(now, then, eta)
            x_m = first.kept * x_t + first.gain * -jnp.expm1(-first.H) * x_0 + first.std * noise
            x_s = whole.kept * x_t + whole.gain * -jnp.expm1(-whole.H) * denoise(x_m, middle).x_0
            return narrow(x_s + second.kept * first.std * noise + second.std * more, x_0.dtype)

        return jax.lax.cond(is_clean(then), lambda x_0: x_0, halfway, x_0), memory

    return ReverseStep(no_memory, step)


def _two_noises(key, x_t: Array) -> tuple[Array, Array]:
    first, second = jax.random.split(key)
    return jax.random.normal(first, x_t.shape, x_t.dtype), jax.random.normal(second, x_t.shape, x_t.dtype)
