"""A certificate: how far what a guidance and a sampler draw is from the law that they claim, where that law is known.

In the plane every law is known, up to the cells of a grid: that of a class, its product with powers of others, a
posterior. The denoisers are exact, those of a mixture, so whatever a certificate finds is the method's own doing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from guided_jax import metrics, sampler, schedule, stateful
from guided_jax.analytic import GaussianMixture
from guided_jax.denoiser import Denoiser
from guided_jax.metrics import MeanStd
from guided_jax.reverse import ReverseStep
from guided_jax.reverse.stateful import with_state
from guided_jax.schedule import NoiseLevel

LogDensity = Callable[[Array], Array]  # x (2,) -> log p(x), up to a constant
Guide = Callable[[Denoiser, Denoiser], Any]  # (conditional, unconditional) -> a denoiser, or a `Stateful` one
SIDE, EXTENT = 800, 5.0  # the grid: cells a side, over [-EXTENT, EXTENT]
INSIDE = 0.9  # mass of the set whose coverage is measured
MANY = 200_000  # draws by which the shares of the modes are counted
SLICES = 64  # directions of the sliced distance
COMPARED = 500  # points of the kernel distance, whose cost is their square
ANGLES = np.arange(6) * np.pi / 3 + 0.3
MODES = 1.4 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
# Two classes of three modes each, in turn on a circle, with weights and widths of their own. Of NumPy: no device is looked
# for when this module is imported.
_WEIGHTS: Any = np.array([1.0, 1.5, 1.0, 0.7, 1.3, 1.0])
_MEANS: Any = MODES
_STDS: Any = np.array([0.32, 0.3, 0.25, 0.35, 0.28, 0.3])
_LABELS: Any = np.array([0, 1, 0, 1, 0, 1])
_WIDER: Any = np.sqrt(np.square(_STDS) + 0.15)
PLANE = GaussianMixture(_WEIGHTS, _MEANS, _STDS, labels=_LABELS)
WORSE = PLANE._replace(stds=_WIDER)  # the bad model of autoguidance


class Law(NamedTuple):
    """A law in the plane, on a grid of SIDE x SIDE cells.

    centres: of the cells (cells, 2). masses: of the cells, which sum to 1. level: the mass of a cell at the edge of the
    smallest set that holds `INSIDE` of the law.
    """

    centres: Float[np.ndarray, "cells 2"]
    masses: Float[np.ndarray, " cells"]
    level: float

    def sample(self, count: int, seed: int) -> Float[np.ndarray, "count 2"]:
        """Draw points, uniform within a cell. count: how many. seed: of NumPy's generator."""
        generator = np.random.default_rng(seed)
        cells = generator.choice(len(self.masses), count, p=self.masses)
        return self.centres[cells] + generator.uniform(-EXTENT / SIDE, EXTENT / SIDE, (count, 2))

    def covers(self, points: Float[np.ndarray, "count 2"]) -> np.ndarray:
        """Return whether each point lies in the smallest set that holds `INSIDE` of the law. points: (count, 2)."""
        cells = np.floor((points + EXTENT) * (SIDE / (2 * EXTENT)))
        row, column = np.clip(cells, 0, SIDE - 1).astype(int).T
        on_grid = (np.abs(points) < EXTENT).all(1)
        return on_grid & (self.masses[row * SIDE + column] >= self.level)

    def moments(self) -> tuple[np.ndarray, float]:
        """Return the mean (2,), and the root of the trace of the covariance."""
        mean = self.masses @ self.centres
        return mean, float(np.sqrt(self.masses @ np.square(self.centres - mean).sum(1)))


def law(log_density: LogDensity) -> Law:
    """Return p on the grid.

    log_density: x (2,) -> log p(x), up to a constant.
    Raises ValueError for a law that is not finite, or reaches beyond the grid.

    >>> mean, width = gj.certificate.law(lambda x: -2 * jnp.sum(jnp.square(x - 1.0))).moments()
    >>> mean.round(3).tolist(), round(width**2, 3)  # N((1, 1), I / 4)
    ([1.0, 1.0], 0.5)
    """
    ticks = (np.arange(SIDE) + 0.5) * (2 * EXTENT / SIDE) - EXTENT
    centres = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
    logs = np.asarray(jax.vmap(log_density)(jnp.asarray(centres, jnp.float32)), np.float64)
    if np.isnan(logs).any() or not np.isfinite(logs.max()):
        raise ValueError("the log density is not finite, so there is no law to compare with; check its formula")
    masses = np.exp(logs - logs.max())
    masses /= masses.sum()
    square = masses.reshape(SIDE, SIDE)
    if (edge := square[[0, -1]].sum() + square[:, [0, -1]].sum()) > 1e-4:
        raise ValueError(f"the law reaches beyond the square of side {2 * EXTENT:g}: its edge has a mass of {edge:.1e}")
    falling = np.sort(masses)[::-1]
    return Law(centres, masses, float(falling[np.searchsorted(np.cumsum(falling), INSIDE)]))


class Certificate(NamedTuple):
    """Six numbers of samples, each of which says something else about how far they are from a law.

    bias: the distance between the means, over the width of the law, the root of the trace of its covariance.
    spread: the width of the samples over that of the law. coverage: their share in the smallest set that holds 0.9 of it.
    weights: the largest difference between the share of samples nearest to a mode and that of the law.
    sliced: the sliced Wasserstein-1 distance. kernel: the squared maximum mean discrepancy.
    """

    bias: float
    spread: float
    coverage: float
    weights: float
    sliced: float
    kernel: float


class Finding(NamedTuple):
    """found: of the samples. exact: of as many exact samples, each number with its deviation over repeated draws.

    shares: of the samples nearest to each mode. promised: those of the law.
    """

    found: Certificate
    exact: dict[str, MeanStd]
    shares: Float[np.ndarray, " modes"]
    promised: Float[np.ndarray, " modes"]

    @property
    def beyond(self) -> list[str]:
        """Return the names of the numbers that are more than three deviations from those of exact samples."""
        found = self.found._asdict().items()
        return [name for name, value in found if abs(value - self.exact[name].mean) > 3 * self.exact[name].std]

    @property
    def holds(self) -> bool:
        """Return whether no number is beyond."""
        return not self.beyond


def compare(
    samples: Float[ArrayLike, "count 2"], law: Law, modes: Float[np.ndarray, "modes 2"], repeats: int = 20
) -> Finding:
    """Return how samples differ from a law, and how as many exact samples do.

    samples: (count, 2). law: that they should have. modes: the places whose shares are counted. repeats: of exact draws.
    Raises ValueError for samples that are not finite.
    """
    points = np.asarray(samples, np.float64)
    if not np.isfinite(points).all():
        raise ValueError(
            f"{(~np.isfinite(points)).any(1).sum()} of {len(points)} samples are not finite; use more steps"
        )
    others = [law.sample(len(points), seed) for seed in range(1, repeats + 1)]
    reference, promised = law.sample(len(points), 0), metrics.mode_weights(law.sample(MANY, 0), modes)
    exact = [_certify(each, law, modes, promised, reference) for each in others]
    floor = {name: MeanStd.of([getattr(each, name) for each in exact]) for name in Certificate._fields}
    found = _certify(points, law, modes, promised, reference)
    return Finding(found, floor, metrics.mode_weights(points, modes), promised)


def certify(
    guide: Guide,
    step: ReverseStep,
    levels: NoiseLevel,
    label: int | None = 0,
    log_density: LogDensity | None = None,
    count: int = 2000,
    seed: int = 0,
) -> Finding:
    """Draw from `PLANE` by a guidance and a step, and compare with the law that they should have.

    guide: (conditional, unconditional) -> a denoiser, or a stateful one: the guidance.
    step: of the sampler. levels: that it visits.
    label: of the conditional denoiser, 0 or 1; None for the whole mixture.
    log_density: x (2,) -> log p(x) of that law, up to a constant; None for the law of the label.
    count: of the samples. seed: of their noise.

    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 60)
    >>> free = lambda c, u: gj.guidance.classifier_free(c, u, 1.0)
    >>> found = gj.certificate.certify(free, gj.reverse.ddim(), levels, count=500)
    >>> abs(found.found.coverage - 0.9) < 0.1
    True
    """
    samples = jax.vmap(drawer(guide, step, levels, label))(keys(seed, count))
    own = log_density or tilted(label, 1.0)
    return compare(samples, law(own), MODES)


def drawer(guide: Guide, step: ReverseStep, levels: NoiseLevel, label: int | None) -> Callable[[Array], Array]:
    """Return key -> one sample (2,) of `PLANE`. guide, step, levels, label: as for `certify`."""
    guided = guide(PLANE.denoiser(label), PLANE.denoiser())
    has_state = isinstance(guided, stateful.Stateful)
    denoise = stateful.first_state(guided) if has_state else guided
    step = with_state(guided, step) if has_state else step
    top = schedule.at(levels, -1)

    def draw(key: Array) -> Array:
        key_noise, key_run = jax.random.split(key)
        x_T = top.sigma * jax.random.normal(key_noise, (2,))
        return sampler.sample(key_run, denoise, step, x_T, levels)

    return draw


def keys(seed: int, count: int) -> Array:
    """Return a key for each sample. seed: of all. count: of the samples."""
    return sampler.keys(jax.random.key(seed), jnp.arange(count))


def tilted(label: int | None, scale: float) -> LogDensity:
    """log p(x)^(1 - scale) p(x | label)^scale of `PLANE`: what classifier-free guidance of this scale claims.

    label: 0 or 1; None for the whole mixture. scale: 1 is the law of the label.
    """
    clean = schedule.at(schedule.cosine(2), 0)
    every = PLANE.log_density()
    if label is None:
        return lambda x: every(x, clean)
    kept: Any = np.where(label == _LABELS, _WEIGHTS, 0)
    own = PLANE._replace(weights=kept).log_density()
    return lambda x: (1 - scale) * every(x, clean) + scale * own(x, clean)


def _certify(points: np.ndarray, law: Law, modes: np.ndarray, promised: np.ndarray, exact: np.ndarray) -> Certificate:
    mean, width = law.moments()
    own = float(np.sqrt(np.square(points - points.mean(0)).sum(1).mean()))
    return Certificate(
        bias=float(np.linalg.norm(points.mean(0) - mean)) / width,
        spread=own / width,
        coverage=float(law.covers(points).mean()),
        weights=float(np.abs(metrics.mode_weights(points, modes) - promised).max()),
        sliced=float(metrics.sliced_wasserstein(points, exact, SLICES)),
        kernel=float(metrics.mmd_squared(points[:COMPARED], exact[:COMPARED])),
    )
