"""T1: measurements of a mixture of 25 normal laws, drawn by the methods and judged by exact draws of the posterior.

25 normal laws of covariance I at (8i, 8j), i and j from -2 to 2, repeated dx / 2 times, chi-square weights; y = A x_0 +
noise, A = U diag(d) V^T with U and V random orthogonal and d sorted uniforms, noise_std = u max(d) with one more uniform u.
All methods have the same denoiser, the exact one, the same levels and the same step, DDIM of eta 0.6 in 20 steps and 0.85
in 100, or the step that a row names.

Source: [MCGDiff] Cardoso et al. 2308.07983, whose settings these are.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.posteriors.methods import (
    BEST,
    FLOOR,
    Method,
    Task,
    alone,
    best_of,
    by_covariance,
    measured,
    plain,
    together,
    with_optimal,
    with_step,
)
from guided_jax import guidance, metrics, operators, reverse, schedule
from guided_jax.analytic import GaussianMixture

GRID = np.array([(8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)])
TABLE = schedule.from_betas(np.linspace(1e-4, 0.02, 999))
ETAS = {20: 0.6, 100: 0.85, 500: 1.0}  # of DDIM, by the number of steps; the last is not of the paper
MEASURED = (1, 2, 4)  # numbers of measurements, dy
MMPS = "`guidance.mmps`, dy iterations"


class Problem(NamedTuple):
    """One measurement of one draw."""

    weights: np.ndarray  # (25,)
    matrix: np.ndarray  # (dy, dx)
    y: np.ndarray  # (dy,)
    noise_std: float


def means(dx: int) -> np.ndarray:
    """The 25 modes, (25, dx)."""
    return np.tile(GRID, (1, dx // 2))


def problem(seed: int, dx: int, dy: int) -> Problem:
    """One problem of T1."""
    rng = np.random.default_rng(seed)
    weights = rng.chisquare(1, len(GRID))
    weights /= weights.sum()
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (dy, dx))
    gains = np.sort(rng.uniform(size=dy))[::-1]
    matrix, noise_std = left @ np.diag(gains) @ right[:, :dy].T, rng.uniform() * gains[0]
    truth = means(dx)[rng.choice(len(GRID), p=weights)] + rng.standard_normal(dx)
    return Problem(weights, matrix, matrix @ truth + noise_std * rng.standard_normal(dy), noise_std)


def prior(weights: Any, dx: int) -> GaussianMixture:
    """The law of x_0."""
    return GaussianMixture(weights, jnp.asarray(means(dx), jnp.float32), jnp.ones(len(GRID)))


class Exact(NamedTuple):
    """The posterior, whose 25 components have one covariance."""

    weights: np.ndarray
    means: np.ndarray
    root: np.ndarray  # L of the covariance L L^T

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return (count, dx) samples."""
        chosen = rng.choice(len(self.weights), count, p=self.weights / self.weights.sum())
        return self.means[chosen] + rng.standard_normal((count, self.means.shape[1])) @ self.root.T

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Return log p(x | y) up to a constant, (count,)."""
        white = [np.linalg.solve(self.root, points.T).T for points in (x, self.means)]
        squares = [np.square(points).sum(1) for points in white]
        distances = squares[0][:, None] + squares[1][None] - 2 * white[0] @ white[1].T
        with np.errstate(divide="ignore"):
            return np.logaddexp.reduce(np.log(self.weights)[None] - distances / 2, axis=1)


@functools.cache
def exact(seed: int, dx: int, dy: int) -> Exact:
    """The posterior of `problem(seed, dx, dy)`."""
    with jax.enable_x64(True):  # some of two hundred problems measure more precisely than float32 can tell from 0
        found = posterior(*problem(seed, dx, dy))
    root = np.linalg.cholesky(np.asarray(found.covariances[0], np.float64))
    return Exact(np.asarray(found.weights, np.float64), np.asarray(found.means, np.float64), root)


@jax.jit
def posterior(weights: Any, matrix: Any, y: Any, noise_std: Any) -> GaussianMixture:
    """The posterior of one problem, as the library has it."""
    return prior(weights, matrix.shape[1]).posterior(matrix, y, noise_std)


# --- methods -----------------------------------------------------------------------------------------------------------

METHODS = {
    "no guidance": Method(alone(lambda t: (t.denoise, t.step)), "F"),
    "best of 1 + 2 dy": Method(best_of(lambda dy: 1 + 2 * dy), "(1 + 2 dy) F"),
    "`reverse.dps`, 0.1": Method(alone(lambda t: (t.denoise, reverse.dps(t.step, t.operator, t.y, 0.1))), "F + B"),
    "`guidance.pigdm`, data_std 11.4": Method(
        alone(lambda t: (guidance.pigdm(t.denoise, t.operator, t.y, t.noise_std, t.data_std), t.step)), "F + B"
    ),
    MMPS: Method(alone(by_covariance), "F + dy B"),
    "`guidance.mmps`, optimal variance": Method(with_optimal(alone(by_covariance)), "F + dy B"),
    "`particles.twisted`": Method(together(plain), "F + B"),
    "`particles.measurement`": Method(together(measured), "F + dy B"),
    BEST: Method(with_optimal(together(measured)), "F + dy B"),
}
# Clouds of other sizes than 1000 of the last method, and more steps of it.
CLOUDS = {f"{size} particles": Method(with_optimal(together(measured, size)), "F + dy B") for size in (64, 256, 4000)}
# `guidance.mmps` with other steps than DDIM of eta 0.85.
VARIANTS = {
    f"mmps, {name}": Method(with_step(step, alone(by_covariance)), "F + dy B")
    for name, step in {
        "`ddim(0)`": reverse.ddim(0.0),
        "`ddim(1)`": reverse.ddim(1.0),
        '`ddpm("large")`': reverse.ddpm("large"),
        "`reverse_sde()`": reverse.reverse_sde(),
        "`dpm_solver(2, eta=1)`": reverse.dpm_solver(2, 1.0),
        "`chain(langevin(0.7, 4), ddim(1))`, 20 levels": reverse.chain(reverse.langevin(0.7, 4), reverse.ddim(1.0)),
        "`chain(langevin(0.7, 2), ddim(1))`": reverse.chain(reverse.langevin(0.7, 2), reverse.ddim(1.0)),
    }.items()
}
MANY = "mmps, `ddim(0.85)` again"  # of ten times as many problems
VARIANTS[MANY] = METHODS[MMPS]
FIVE_CALLS = "mmps, `chain(langevin(0.7, 4), ddim(1))`, 20 levels"  # five calls of the network at each
ROWS: dict[str, Method | None] = {FLOOR: None, **METHODS, **CLOUDS, **VARIANTS}


# --- measuring ---------------------------------------------------------------------------------------------------------


@functools.cache
def drawer(method: Method, dx: int, steps: int, count: int) -> Callable[..., jax.Array]:
    """(key, a problem) -> samples, compiled once for all problems."""

    @jax.jit
    def draw(key: Any, weights: Any, matrix: Any, y: Any, noise_std: Any) -> jax.Array:
        law, step, levels = prior(weights, dx), reverse.ddim(ETAS[steps]), schedule.respace(TABLE, steps)
        operator = operators.matrix(matrix)
        return method.draw(Task(key, law, law.denoiser(), step, levels, operator, y, noise_std, count, dx))

    return draw


def judge(x: np.ndarray, law: Exact, rng: np.random.Generator) -> dict[str, float]:
    """Distances of samples to the posterior."""
    reference, many = law.draw(rng, len(x)), law.draw(rng, 10_000)
    shares = metrics.mode_weights(x, law.means)
    return {
        "distance": metrics.sliced_wasserstein(x, reference),
        "modes": float(np.abs(shares - law.weights).sum() / 2),
        "coverage": metrics.highest_density_coverage(law.log_density(x), law.log_density(many)),
    }


def measure(name: str, dx: int, dy: int, steps: int, problems: int, samples: int) -> dict[str, Any]:
    """One cell of a table: the scores of each problem. FLOOR: other exact draws."""
    method = ROWS[name]
    draw = None if method is None else drawer(method, dx, steps, samples)
    start, found = time.monotonic(), []
    for seed in range(problems):
        law, rng = exact(seed, dx, dy), np.random.default_rng([seed, 1])
        arrays = (jnp.asarray(each, jnp.float32) for each in problem(seed, dx, dy))
        x = law.draw(rng, samples) if draw is None else draw(jax.random.key(seed), *arrays)
        found.append(judge(np.asarray(x, np.float64), law, rng))
    row: dict[str, Any] = {"method": name, "dx": dx, "dy": dy, "steps": steps}
    row |= {measure: [each[measure] for each in found] for measure in found[0]}
    return row | {"calls": "" if method is None else method.calls, "seconds": time.monotonic() - start}
