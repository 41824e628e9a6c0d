"""How near each setting of training-free guidance comes to the exact conditional law, on a mixture in the plane.

    python -m benchmarks.training_free           # prints the table
    python -m benchmarks.training_free --page    # puts it into docs/methods.md

The criterion is the exact log p(class 0 | x_0) of clean examples, the model the exact denoiser of the mixture of
`benchmarks.mixture`. Every method is measured at the strengths of a grid, and shown at those that come nearest. About
five minutes on two CPU cores.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measured
from benchmarks.mixture import LEVELS, MIXTURE
from guided_jax import guidance, reverse, sampler, schedule
from guided_jax.reverse import ReverseStep

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
COUNT = 1000  # samples at each strength; the shown ones are measured again with more
SHOWN = 10_000
STRENGTHS = [2.0**k for k in range(-10, 0)]
SMOOTHINGS = [0.01, 0.1, 0.5, 1.0]
CLEAN = schedule.at(LEVELS, 0)
STEP = reverse.ddim(1.0)


def criterion(x_0: Any, level: Any) -> Any:
    """log p(class 0 | x_0), exact."""
    return MIXTURE.log_prob(0)(x_0, CLEAN)


class Case(NamedTuple):
    """One method: its row's title, (rho, mu, smoothing) -> its step, and the grid of each of the three."""

    title: str
    make: Callable[..., ReverseStep]
    rho: Sequence[float] = (0.0,)
    mu: Sequence[float] = (0.0,)
    smoothing: Sequence[float] = (0.0,)


def with_settings(**settings: Any) -> Callable[..., ReverseStep]:
    """(rho, mu, smoothing) -> the step with these settings."""
    return lambda rho, mu, smoothing: reverse.training_free(STEP, criterion, rho, mu, smoothing, **settings)


def universal(scale: Any, mu: Any, smoothing: Any) -> ReverseStep:
    """Universal guidance: rho_t = s sigma_t (sigma_t - sigma_s alpha_t / alpha_s), and d keeps x_t."""

    def rho(now: Any) -> Any:
        then = schedule.at(LEVELS, jnp.searchsorted(LEVELS.t, now.t) - 1)
        return scale * now.sigma * (now.sigma - then.sigma * now.alpha / then.alpha)

    return reverse.training_free(STEP, criterion, rho, mu, smoothing, keeps="x_t")


CASES = [
    Case("DPS", with_settings(levels=LEVELS, weights="constant"), STRENGTHS),
    Case(
        "LGD, 4 samples", with_settings(levels=LEVELS, weights="constant", samples=4), STRENGTHS, smoothing=SMOOTHINGS
    ),
    Case("FreeDoM, 4 recurrences", with_settings(levels=LEVELS, weights="constant", recurrence=4), STRENGTHS),
    Case("MPGD", with_settings(levels=LEVELS, weights="constant", iterations=1), mu=STRENGTHS),
    Case("UGD", universal, STRENGTHS, STRENGTHS),
    Case("TFG", with_settings(levels=LEVELS), STRENGTHS, STRENGTHS, SMOOTHINGS),
]


def draw(step: ReverseStep, denoise: Any, count: int) -> jax.Array:
    """(count, 2) samples."""

    def one(key: Any) -> jax.Array:
        key_noise, key_run = jax.random.split(key)
        x_T = LEVELS.sigma[-1] * jax.random.normal(key_noise, (2,))
        return sampler.sample(key_run, denoise, step, x_T, LEVELS)

    return jax.vmap(one)(sampler.keys(jax.random.key(0), jnp.arange(count)))


def exact(count: int, seed: int) -> jax.Array:
    """(count, 2) draws of the conditional law."""
    return jax.vmap(lambda key: MIXTURE.sample(key, 0))(sampler.keys(jax.random.key(seed), jnp.arange(count)))


def measure(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(Mean p(class 0 | x_0), sliced Wasserstein-1 distance to the exact conditional law over 64 directions)."""
    angles = jnp.pi * jnp.arange(64) / 64
    directions = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
    here, there = (jnp.sort(points @ directions, 0) for points in (x, exact(len(x), 1)))
    return jnp.mean(jnp.exp(jax.vmap(lambda x: criterion(x, CLEAN))(x))), jnp.mean(jnp.abs(here - there))


def nearest(case: Case) -> tuple[float, ...]:
    """(rho, mu, smoothing) of the grid that come nearest to the exact conditional law."""
    grid = list(itertools.product(case.rho, case.mu, case.smoothing))

    @jax.jit
    def distance(strengths: jax.Array) -> jax.Array:
        return measure(draw(case.make(*_kept(case, strengths)), MIXTURE.denoiser(), COUNT))[1]

    found = [float(distance(jnp.asarray(strengths))) for strengths in grid]
    return grid[int(np.argmin(np.nan_to_num(found, nan=np.inf)))]


def _kept(case: Case, strengths: Any) -> list[Any]:
    """The strengths, of which those that the method does not have are the number 0."""
    return [0.0 if tuple(own) == (0.0,) else given for own, given in zip(case[2:], strengths, strict=True)]


def rows() -> list[list[str]]:
    """The rows of the table."""
    found = []
    classifier = guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(0), 1.0)
    for title, samples in (
        ("none", jax.jit(lambda: draw(STEP, MIXTURE.denoiser(), SHOWN))()),
        ("`guidance.classifier`, the exact noisy classifier", jax.jit(lambda: draw(STEP, classifier, SHOWN))()),
        ("other exact draws", exact(SHOWN, 2)),
    ):
        found.append([title, "", "", "", *_cells(samples)])
    for case in CASES:
        best = nearest(case)
        samples = jax.jit(lambda case=case, best=best: draw(case.make(*best), MIXTURE.denoiser(), SHOWN))()
        found.append([case.title, *(f"{value:.2g}" if value else "" for value in best), *_cells(samples)])
        print(" | ".join(found[-1]), flush=True)
    return found


def _cells(samples: jax.Array) -> list[str]:
    accuracy, distance = measure(samples)
    return [f"{float(accuracy):.3f}", f"{float(distance):.3f}"]


def main(arguments: list[str]) -> None:
    """Print the table, and with --page put it into the page."""
    if set(arguments) - {"--page"}:
        raise SystemExit(f"{arguments[0]} is not known; give --page or nothing")
    head = ["method", "rho", "mu", "smoothing", "mean p(class \\| x_0)", "distance"]
    table = measured.table(head, rows())
    print(table)
    if "--page" in arguments:
        measured.fill_page(PAGE, {"training-free": table})


if __name__ == "__main__":
    main(sys.argv[1:])
