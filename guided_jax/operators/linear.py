"""Linear measurements y = A x_0, each with its adjoint and with the inverse that guidance needs; A after a decoder too."""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.numerics import gaussian_matrix, ratio

Function = Callable[[Array], Array]  # of each number of an array
FLAT = 1e-6  # an eigenvalue with less of the largest is beyond float32: not observed


class Operator(NamedTuple):
    """A measurement of one example; its arrays may be traced, and so differ within a batch.

    forward: x -> A x.
    adjoint: y -> A^T y.
    solve: (y, gain, noise) -> (gain A A^T + noise I)^-1 y, or the pseudo-inverse of a singular matrix; gain and noise
        are scalars >= 0.
    spectral: (function, y) -> f(A A^T) y, f of each eigenvalue of A A^T; those that are not observed are 0. None for an
        operator that does not know them; only `reverse.ddnm` of a noisy y reads it.
    """

    forward: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    solve: Callable[[Array, ArrayLike, ArrayLike], Array]
    spectral: Callable[[Function, Array], Array] | None = None


def from_spectrum(
    forward: Callable[[Array], Array],
    adjoint: Callable[[Array], Array],
    spectral: Callable[[Function, Array], Array],
) -> Operator:
    """Return the operator of a forward, an adjoint and f(A A^T); `solve` is f(v) = 1 / (gain v + noise).

    forward: x -> A x.
    adjoint: y -> A^T y.
    spectral: (function, y) -> f(A A^T) y.
    """

    def solve(y: Array, gain: ArrayLike, noise: ArrayLike) -> Array:
        return spectral(lambda values: ratio(1.0, gain * values + noise), y)

    return Operator(forward, adjoint, solve, spectral)


def pseudo_inverse(operator: Operator, y: Float[Array, "..."]) -> Float[Array, "..."]:
    """A^+ y = A^T (A A^T)^-1 y: the x of least norm with A x = y. operator: A. y: a measurement."""
    return operator.adjoint(operator.solve(y, 1.0, 0.0))


def average_pool(factor: int) -> Operator:
    """A x = the mean over factor x factor pixels of x: super-resolution.

    factor: has to divide the height and the width of x (height, width, channels).
    """

    def forward(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
        height, width, channels = x.shape
        return x.reshape(height // factor, factor, width // factor, factor, channels).mean((1, 3))

    def adjoint(y: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
        height, width, channels = y.shape
        spread = jnp.broadcast_to(y[:, None, :, None, :], (height, factor, width, factor, channels))
        return spread.reshape(height * factor, width * factor, channels) / factor**2

    # A A^T = I / factor^2: means of disjoint pixels.
    return from_spectrum(forward, adjoint, lambda function, y: y * function(jnp.float32(1 / factor**2)))


def separable(rows: Float[Array, "h2 h"], columns: Float[Array, "w2 w"]) -> Operator:
    """A x = rows x columns^T for each channel of x (height, width, channels): a separable blur, a crop, a resize.

    rows: (new height, height).
    columns: (new width, width).
    """
    row_values, row_vectors = _spectrum(rows)
    column_values, column_vectors = _spectrum(columns)
    power = row_values[:, None, None] * column_values[None, :, None]

    def spectral(function: Function, y: Array) -> Array:
        turned = _apply(row_vectors.T, column_vectors.T, y)
        return _apply(row_vectors, column_vectors, function(power) * turned)

    return from_spectrum(lambda x: _apply(rows, columns, x), lambda y: _apply(rows.T, columns.T, y), spectral)


def gaussian_blur(height: int, width: int, std: ArrayLike) -> Operator:
    """A x = x blurred by a normal kernel, whose weights sum to 1 at the borders too.

    height, width: of x (height, width, channels).
    std: in pixels, a number or traced value.
    """
    return separable(gaussian_matrix(height, std), gaussian_matrix(width, std))


def matrix(a: Float[Array, "m d"], shape: tuple[int, ...] | None = None) -> Operator:
    """A x for a dense matrix A, of x as one vector.

    a: A, (M, D).
    shape: of x, with D elements; (D,) if None. `forward` takes x of any shape, `adjoint` returns this one.

    >>> mean = gj.operators.matrix(jnp.full((1, 4), 0.25))
    >>> mean.forward(jnp.arange(4.0).reshape(2, 2)).tolist()
    [1.5]
    """
    a = jnp.asarray(a)
    values, vectors = _spectrum(a)

    def spectral(function: Function, y: Array) -> Array:
        return vectors @ (function(values) * (vectors.T @ y))

    return from_spectrum(lambda x: a @ x.reshape(-1), lambda y: (y @ a).reshape(shape or a.shape[1:]), spectral)


def through(operator: Operator, decode: Callable[[Array], Array], gain: ArrayLike = 1.0) -> Operator:
    """A decode(x): a measurement of the picture that a decoder makes of x, which is linear only if the decoder is.

    operator: A, of pictures.
    decode: x -> picture.
    gain: D D^T is taken to be gain I, D the derivative of `decode`: the variance of a pixel in units of that of an element
        of x, a number or traced value. `solve` is that of A with it, exact for a linear decoder with D D^T = gain I.
    Returns an operator whose adjoint raises ValueError: what guides by it differentiates `forward` (`guidance.pigdm`,
        `guidance.mmps`, `guidance.likelihood`, `reverse.dps`).

    >>> half = gj.operators.mask(jnp.array([1.0, 0.0]))
    >>> gj.operators.through(half, lambda z: 2 * z).forward(jnp.array([0.3, 0.4])).tolist()
    [0.6000000238418579, 0.0]
    """

    def adjoint(y: Array) -> NoReturn:
        raise ValueError("a measurement through a decoder has no adjoint; take jax.vjp of its forward")

    def solve(y: Array, weight: ArrayLike, noise: ArrayLike) -> Array:
        return operator.solve(y, jnp.asarray(weight) * gain, noise)

    return Operator(lambda x: operator.forward(decode(x)), adjoint, solve)


def observed_only(values: Array) -> Array:
    """Return eigenvalues of A A^T, below float32's precision exactly 0, that is, not observed. values: >= 0."""
    return jnp.where(values > FLAT * values.max(), values, 0.0)


def _spectrum(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and vectors of K K^T."""
    values, vectors = jnp.linalg.eigh(jnp.einsum("ij,kj->ik", matrix, matrix))
    return observed_only(values), vectors


def _apply(rows: Array, columns: Array, x: Array) -> Array:
    return jnp.einsum("ij,jwc,vw->ivc", rows, x, columns)
