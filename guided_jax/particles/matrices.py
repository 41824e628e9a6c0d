"""Decompositions of a matrix for each particle, which on CPU are computed one after another.

JAX hands a batch to XLA's thread pool from one of the pool's own threads, which then waits for the others. Where there
are two threads, two batches at a time take both, and neither ends. So here a batch under `vmap` is a loop on CPU.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float


def eigh(a: Float[Array, "m m"]) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Return the eigenvalues of a symmetric matrix a, ascending, and its eigenvectors as columns."""
    return _one_by_one(lambda a: tuple(jnp.linalg.eigh(a)))(a)


def cholesky(a: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Return the lower L with a = L L^T for a positive definite a."""
    return _one_by_one(jnp.linalg.cholesky)(a)


def solve_lower(factor: Float[Array, "m m"], b: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return L^-1 b. factor: L, lower. b: the right side."""
    return _one_by_one(functools.partial(solve_triangular, lower=True))(factor, b)


def solve_positive(factor: Float[Array, "m m"], b: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return (L L^T)^-1 b. factor: L, of `cholesky`. b: the right side."""
    return _one_by_one(lambda factor, b: cho_solve((factor, True), b))(factor, b)


def _one_by_one(function: Callable) -> Callable:
    return jax.custom_batching.sequential_vmap(function) if jax.default_backend() == "cpu" else function
