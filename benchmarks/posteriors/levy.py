"""T2: measurements of random walks, drawn by the methods and judged by exact draws.

A walk of 64 increments of a law of `laws`, seen itself, blurred by 13 taps of deviation 2 (periodically), in half of its
places, or in about half of its real frequencies, the lowest five among them; noise of 25 dB below the median power of what
is seen. The methods have the exact denoiser, in closed form for normal increments, by Gibbs sampling for the others, and
sigma from 0.01 to beyond what the walks reach, in Karras's steps.

Scores: 10 log10 of the squared error of the samples' mean over that of the exact mean, 0 is best; the share of samples in
the smallest set that holds 0.9 of the posterior; and how often the truth lies in the smallest set that holds 0.9 of the
method's own samples, both 0.9 for samples that follow the posterior, where it has a density.

Source: [Levy] Zach et al. 2509.12821, whose settings these are but for the places and frequencies, which are ours.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.posteriors import walks
from benchmarks.posteriors.laws import LAWS, LENGTH, Law
from benchmarks.posteriors.methods import FLOOR, Method, Task, alone, by_covariance
from guided_jax import guidance, metrics, operators, reverse, schedule
from guided_jax.analytic import GaussianMixture

DECIBELS = 25
CHAINS, LONG, BURN_IN = 2, 1000, 200  # of the exact draws of a problem, in sweeps
STEPS = 100


class Problems(NamedTuple):
    """Walks, and what is seen of them."""

    truth: np.ndarray  # (n, length)
    matrix: np.ndarray  # (m, length)
    y: np.ndarray  # (n, m)
    noise_std: float


def matrices() -> dict[str, np.ndarray]:
    """The operators as matrices (m, length)."""
    rng, places = np.random.default_rng(0), np.arange(LENGTH)
    taps = np.exp(-np.square(np.arange(-6, 7) / 2.0) / 2)
    blur = sum(tap * np.roll(np.eye(LENGTH), k, 1) for k, tap in zip(range(-6, 7), taps / taps.sum(), strict=True))
    waves = np.fft.rfft(np.eye(LENGTH), norm="ortho").T * np.sqrt(2)
    waves[[0, -1]] /= np.sqrt(2)
    chosen = np.append(np.arange(5), 5 + np.sort(rng.choice(28, 14, replace=False)))
    real = np.concatenate([waves[chosen].real, waves[[k for k in chosen if 0 < k < LENGTH // 2]].imag])
    return {
        "identity": np.eye(LENGTH),
        "blur": blur,
        "half of the places": np.eye(LENGTH)[np.sort(rng.choice(places, LENGTH // 2, replace=False))],
        "half of the frequencies": real,
    }


@functools.cache
def problems(law: str, operator: str, count: int) -> Problems:
    """The first `count` problems of this law and operator: a larger count has the same first ones."""
    matrix = matrices()[operator]
    usual = np.cumsum(LAWS[law].draw(np.random.default_rng(1), (2000, LENGTH)), 1)
    power = np.median(np.square(usual @ matrix.T).mean(1))
    noise_std = float(np.sqrt(power / 10 ** (DECIBELS / 10)))
    rngs = [np.random.default_rng([2, seed]) for seed in range(count)]
    truth = np.stack([np.cumsum(LAWS[law].draw(rng, (LENGTH,))) for rng in rngs])
    noise = np.stack([rng.standard_normal(len(matrix)) for rng in rngs])
    return Problems(truth, matrix, truth @ matrix.T + noise_std * noise, noise_std)


def log_density(law: Law, given: Problems, x: np.ndarray) -> np.ndarray:
    """log p(x_0 | y) up to a constant of each problem: (..., n, length) -> (..., n)."""
    assert law.log_density is not None
    misfit = np.square(given.y - x @ given.matrix.T).sum(-1) / (2 * given.noise_std**2)
    return law.log_density(np.diff(x, prepend=0.0, axis=-1)).sum(-1) - misfit


@functools.cache
def exact(law: str, operator: str, count: int) -> np.ndarray:
    """Exact draws, (draws, n, length), of successive chains."""
    return chains(law, operator, count, CHAINS, LONG, seed=3)


def chains(law: str, operator: str, count: int, number: int, sweeps: int, seed: int) -> np.ndarray:
    """Exact draws, (number * sweeps, n, length), of several chains for each problem."""
    given = problems(law, operator, count)
    y = np.tile(given.y, (number, 1))
    rng = np.random.default_rng(seed)
    found = walks.posterior_draws(LAWS[law], given.matrix, y, given.noise_std, rng, sweeps, BURN_IN)
    return np.concatenate(np.split(found, number, 1))


# --- methods ---------------------------------------------------------------------------------------------------------


def five(task: Task) -> tuple[Any, reverse.ReverseStep]:
    """`guidance.mmps` of its own 5 iterations."""
    return guidance.mmps(task.denoise, task.operator, task.y, task.noise_std), task.step


def by_gradient(task: Task) -> tuple[Any, reverse.ReverseStep]:
    """`reverse.dps` of the scale 3 sigma: of twelve the one of least error on normal increments, half of them seen."""
    return task.denoise, reverse.dps(task.step, task.operator, task.y, lambda level: 3 * level.sigma)


def by_one_variance(task: Task) -> tuple[Any, reverse.ReverseStep]:
    """`guidance.pigdm`, of the standard deviation of all x_0 together."""
    return guidance.pigdm(task.denoise, task.operator, task.y, task.noise_std, task.data_std), task.step


SOLVED = "`guidance.mmps`, m iterations"
METHODS = {
    "no guidance": Method(alone(lambda t: (t.denoise, t.step)), "F"),
    "`reverse.dps`, 3 sigma": Method(alone(by_gradient), "F + B"),
    "`reverse.diffpir`": Method(alone(lambda t: (t.denoise, reverse.diffpir(t.operator, t.y, t.noise_std))), "F"),
    "`guidance.pigdm`": Method(alone(by_one_variance), "F + B"),
    "`guidance.mmps`, 5 iterations": Method(alone(five), "F + 5 B"),
    SOLVED: Method(alone(by_covariance), "F + m B"),
}


def methods(law: str) -> list[str]:
    """Those to measure: all for normal increments; for others, whose denoiser takes longer, guided ones of few calls."""
    return list(METHODS) if LAWS[law].power is not None else list(METHODS)[1:-1]


def denoiser(law: str) -> Any:
    """E[x_0 | x_t] of a walk of this law."""
    power = LAWS[law].power
    if power is None:
        return walks.denoiser(LAWS[law])
    covariance = power * np.minimum.outer(np.arange(1, LENGTH + 1), np.arange(1, LENGTH + 1))
    covariances = jnp.asarray(covariance, jnp.float32)[None]
    return GaussianMixture(jnp.ones(1), jnp.zeros((1, LENGTH)), covariances=covariances).denoiser()


def draws(method: Method, law: str, given: Problems, samples: int, steps: int) -> np.ndarray:
    """(samples, n, length) by a method, of all problems at once."""
    typical = np.sqrt(np.square(given.truth).mean())
    keys = jax.random.split(jax.random.key(4), len(given.y))
    # Rows of 0 make matrices of one shape of all: a program is compiled once for all operators.
    more = ((0, LENGTH - len(given.matrix)), (0, 0))
    arrays = [np.pad(given.matrix, more), np.pad(given.y.T, more).T, given.noise_std, typical]
    x = compiled(method, law, samples, steps)(keys, *(jnp.asarray(each, jnp.float32) for each in arrays))
    return np.asarray(x, np.float64).swapaxes(0, 1)


@functools.cache
def compiled(method: Method, law: str, samples: int, steps: int) -> Callable[..., jax.Array]:
    """(keys, matrix, y, noise_std, data_std) -> (n, samples, length), for n keys and y."""
    levels = schedule.karras(steps, 0.01, LAWS[law].noisiest)

    def draw(key: Any, matrix: Any, y: Any, noise_std: Any, data_std: Any) -> jax.Array:
        operator, step = operators.matrix(matrix), reverse.dpm_solver(2, 1.0)
        return method.draw(
            Task(key, None, denoiser(law), step, levels, operator, y, noise_std, samples, LENGTH, data_std)
        )

    return jax.jit(jax.vmap(draw, in_axes=(0, None, 0, None, None)))


# --- measuring -------------------------------------------------------------------------------------------------------


def judge(law: str, operator: str, x: np.ndarray) -> dict[str, list[float]]:
    """The scores of samples (samples, n, length), a number for each problem."""
    given, reference = problems(law, operator, x.shape[1]), exact(law, operator, x.shape[1])
    errors = [np.square(each.mean(0) - given.truth).mean(1) for each in (x, reference)]
    gap = list(10 * np.log10(errors[0] / errors[1]))
    if LAWS[law].log_density is None:
        return {"gap": gap}
    own, best = log_density(LAWS[law], given, x), log_density(LAWS[law], given, reference)
    at_truth = log_density(LAWS[law], given, given.truth)
    coverage = [metrics.highest_density_coverage(*each) for each in zip(own.T, best.T, strict=True)]
    return {
        "gap": gap,
        "coverage": coverage,
        "truth": [float(each) for each in at_truth >= np.quantile(own, 0.1, axis=0)],
    }


def measure(name: str, law: str, operator: str, count: int, samples: int, steps: int = STEPS) -> dict[str, Any]:
    """One cell of the tables: the scores of each problem."""
    start, given = time.monotonic(), problems(law, operator, count)
    if name == FLOOR:
        x = chains(law, operator, count, 2, max(1, samples // 2) * 10, seed=5)[9::10]
    else:
        x = draws(METHODS[name], law, given, samples, steps)
    row = {"law": law, "operator": operator, "method": name, "steps": steps if name != FLOOR else 0}
    calls = METHODS[name].calls if name != FLOOR else ""
    return row | judge(law, operator, x) | {"calls": calls, "samples": samples, "seconds": time.monotonic() - start}
