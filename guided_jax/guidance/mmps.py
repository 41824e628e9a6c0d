"""Guidance by a linear measurement, with the covariance of x_0 given x_t that the network itself implies.

Source: [MMPS] Rozet et al., Learning diffusion priors from observations by expectation maximization, 2405.13712.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_score
from guided_jax.numerics import is_traced, ratio, widen
from guided_jax.operators import Operator
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength

FLAT = 1e-6  # a direction with less of the largest curvature is beyond float32: not observed, as in `operators`


def mmps(
    denoise: Denoiser,
    operator: Operator,
    y: Float[Array, "..."],
    noise_std: ArrayLike,
    iterations: ArrayLike = 5,
    scale: Scale = 1.0,
) -> Denoiser:
    """score + scale J^T A^T (noise_std^2 I + A V A^T)^-1 (y - A x_0), V = sigma^2 / alpha J, J = dx_0 / dx_t ([MMPS]).

    V is the covariance of x_0 given x_t where the denoiser is exact, whatever the data (Tweedie); the law of x_0 given x_t
    is then taken to be normal. Exact for normal data of any covariance, where `guidance.pigdm` needs one of the form
    data_std^2 I. J is taken to be symmetric, as it is of an exact denoiser.
    denoise: the denoiser to guide.
    operator: A, of `operators`; only its `forward` is read, whose derivative is A, also after a decoder.
    y: the measurement, of this example.
    noise_std: of y, a number or traced value; 0 for the pseudo-inverse, which needs a y that A can give.
    iterations: of conjugate gradients, at least 1; as many as there are measurements solve the system up to rounding, fewer
        the part of it that the data vary most in. A traced number is allowed, but not with `jax.grad` of the result.
    scale: 1 is the posterior.
    Returns a denoiser, of one forward pass of the network and a backward pass for each iteration.
    Raises ValueError for iterations that are no whole number, or below 1.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> total = gj.operators.matrix(jnp.array([[1.0, 1.0]]))
    >>> guided = gj.guidance.mmps(mixture.denoiser(), total, jnp.array([0.7]), noise_std=0.0)
    >>> x_0 = guided(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(1000), 500)).x_0
    >>> [round(float(value), 3) for value in x_0]
    [0.35, 0.35]
    """
    _check_iterations(iterations)

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        zero = widen(jnp.zeros_like(x_t))  # of the type that all of x_0 is computed in, whatever that of the network

        def of(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, level)
            return prediction.x_0.astype(zero.dtype), prediction

        x_0, back, prediction = jax.vjp(of, x_t, has_aux=True)
        seen, adjoint = jax.vjp(operator.forward, x_0)
        residual = jnp.asarray(y - seen, seen.dtype)
        # A as the transpose of its adjoint: the derivative of a decoder, whose convolutions refuse forward mode.
        _, forward = jax.vjp(lambda u: adjoint(u)[0], residual)
        noise = jnp.asarray(jnp.square(jnp.asarray(noise_std)), seen.dtype)
        gain = jnp.asarray(ratio(jnp.square(level.sigma), level.alpha), seen.dtype)

        def pull(u: Array) -> Array:
            return back(adjoint(u)[0])[0].astype(zero.dtype)

        def apply(u: Array, pulled: Array) -> Array:
            return noise * u + gain * forward(pulled)[0]

        gradient = _pulled_solution(pull, apply, residual, zero, iterations)
        return by_score(prediction, jnp.multiply(strength(scale, level), gradient), level)

    return guided


def _pulled_solution(
    pull: Callable[[Array], Array],
    apply: Callable[[Array, Array], Array],
    residual: Float[Array, "..."],
    zero: Float[Array, "*shape"],
    iterations: ArrayLike,
) -> Float[Array, "*shape"]:
    """P u for M u = residual, by conjugate gradients from u = 0, ended at a direction in which M is not positive.

    Each step adds P of its direction, which M needed anyway: no further backward pass for P u, and none for M 0, which the
    solver of jax.scipy asks for; that one is NaN, too, where M is singular.
    pull: u -> P u, a backward pass of the network. apply: (u, P u) -> M u. zero: of the shape of P u.
    """

    def iterate(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        direction, residual, found, steepest = state
        pulled = pull(direction)
        image = apply(direction, pulled)
        curvature, before = _dot(direction, image), _dot(residual, residual)
        relative = ratio(curvature, _dot(direction, direction))
        steepest = jnp.maximum(steepest, relative)
        step = jnp.where(relative > FLAT * steepest, ratio(before, curvature), 0.0)
        left = residual - step * image
        onward = left + ratio(_dot(left, left), before) * direction
        return jnp.where(step > 0, onward, 0.0), left, found + (step * pulled).astype(found.dtype), steepest

    start = (residual, residual, zero, jnp.zeros((), residual.dtype))
    return jax.lax.fori_loop(0, iterations, iterate, start)[2]


def _dot(a: Array, b: Array) -> Float[Array, ""]:
    return jnp.sum(a * b)  # not jnp.vdot, which accelerators may compute in less than float32


def _check_iterations(iterations: ArrayLike) -> None:
    check_number("iterations", iterations)
    whole = jnp.issubdtype(jnp.result_type(iterations), jnp.integer)
    if not whole or (not is_traced(iterations) and np.less(iterations, 1)):
        raise ValueError(f"iterations is {iterations}; give a whole number of at least 1")
