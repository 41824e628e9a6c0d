"""Posterior samplers on mixtures whose posterior is known: how far each is from it, and how far exact draws are.

    python -m benchmarks.posteriors                      # table T1 at 8 dimensions, the picture and the page
    python -m benchmarks.posteriors --dims 8 80 800      # all of it
    python -m benchmarks.posteriors --quick              # to see that all works: no numbers to quote
    python -m benchmarks.posteriors --dims               # draws tables and picture from the file alone

T1, the problems of [MCGDiff]: 25 normal laws of covariance I at (8i, 8j), i and j from -2 to 2, repeated dx / 2 times,
chi-square weights; y = A x_0 + noise, A = U diag(d) V^T with U and V random orthogonal and d sorted uniforms, noise_std =
u max(d) with one more uniform u. All methods have the same denoiser, the exact one, the same levels and the same step,
DDIM of eta 0.6 in 20 steps and 0.85 in 100, or DDPM of the optimal variance where a row says so. About ten minutes on two
CPU cores for dx = 8.

Source: [MCGDiff] Cardoso et al. 2308.07983, whose settings these are.
"""

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import mixture, posterior_pages
from guided_jax import guidance, metrics, operators, particles, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.app import cli
from guided_jax.storage.files import replacing

GRID = np.array([(8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)])
TABLE = schedule.from_betas(np.linspace(1e-4, 0.02, 999))
ETAS = {20: 0.6, 100: 0.85, 500: 1.0}  # by the number of steps; the last is not of the paper
MEASURED = (1, 2, 4)  # numbers of measurements, dy


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure posterior samplers on mixtures whose posterior is known."""

    dims: tuple[int, ...] = (8,)
    """dx, of those which to measure; what is not named is taken from the file."""
    methods: tuple[str, ...] = ()
    """Which methods to measure; all if empty."""
    problems: int = 20
    """Problems for each number of measurements, of the seeds 0, 1, ..."""
    samples: int = 1000
    """Samples of each problem."""
    quick: bool = False
    """Two problems of 100 samples."""
    out: Path | None = None
    """Where posteriors.json and the picture go: docs/images, with --quick runs/posteriors."""


# --- problems --------------------------------------------------------------------------------------------------------


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
    found = posterior(*problem(seed, dx, dy))
    root = np.linalg.cholesky(np.asarray(found.covariances[0], np.float64))
    return Exact(np.asarray(found.weights, np.float64), np.asarray(found.means, np.float64), root)


@jax.jit
def posterior(weights: Any, matrix: Any, y: Any, noise_std: Any) -> GaussianMixture:
    """The posterior of one problem, as the library has it."""
    return prior(weights, matrix.shape[1]).posterior(matrix, y, noise_std)


# --- methods ---------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """What a method is given."""

    key: Any
    prior: GaussianMixture
    denoise: Any
    step: reverse.ReverseStep
    levels: schedule.NoiseLevel
    operator: operators.Operator
    y: jax.Array
    noise_std: jax.Array
    count: int
    dx: int

    def noise(self, count: int) -> jax.Array:
        """Return (count, dx) starting points."""
        return self.levels.sigma[-1] * jax.random.normal(jax.random.fold_in(self.key, 1), (count, self.dx))

    def optimal(self) -> "Task":
        """Return the same task with DDPM of the optimal variance, estimated on 200 examples of the prior."""
        key_data, key_noise = jax.random.split(jax.random.fold_in(self.key, 3))
        data = jax.vmap(self.prior.sample)(jax.random.split(key_data, 200))
        spread = reverse.estimated_spread(key_noise, self.denoise, data, self.levels)
        return self._replace(step=reverse.ddpm(reverse.optimal_variance(spread)))


class Method(NamedTuple):
    """A row of the table."""

    draw: Callable[[Task], jax.Array]  # (count, dx) samples
    calls: str  # a step and a sample; F and B: a forward and a backward pass of the network


def alone(guide: Callable[[Task], tuple[Any, reverse.ReverseStep]]) -> Callable[[Task], jax.Array]:
    """Draw each sample by itself, with the denoiser and the step that `guide` makes."""

    def draw(task: Task) -> jax.Array:
        denoise, step = guide(task)
        keys = sampler.keys(task.key, jnp.arange(task.count))
        run = lambda key, x_T: sampler.sample(key, denoise, step, x_T, task.levels)  # noqa: E731
        return jax.vmap(run)(keys, task.noise(task.count))

    return draw


def together(potential: Callable[[Task], particles.Potential], size: int | None = None) -> Callable[[Task], jax.Array]:
    """Draw the samples in clouds of `size` particles, or all in one: of a larger one, each of the weights' quantiles."""

    def draw(task: Task) -> jax.Array:
        number = min(size or task.count, task.count)
        keys = sampler.keys(task.key, jnp.arange(task.count // number))

        def one(key: Any) -> jax.Array:
            x_T = task._replace(key=key).noise(size or task.count)
            cloud = particles.sample(key, task.denoise, task.step, x_T, task.levels, potential(task))
            return particles.resample(jax.random.fold_in(key, 2), cloud)[:: len(x_T) // number]

        return jax.vmap(one)(keys).reshape(task.count, task.dx)

    return draw


def best_of(count: Callable[[int], int]) -> Callable[[Task], jax.Array]:
    """Draw several of the prior for each sample, and keep the one that fits y best."""

    def draw(task: Task) -> jax.Array:
        each = count(task.y.size)
        more = task._replace(count=each * task.count)
        x_0 = alone(lambda task: (task.denoise, task.step))(more).reshape(task.count, each, task.dx)
        misfit = jnp.square(jax.vmap(jax.vmap(task.operator.forward))(x_0) - task.y[None, None]).sum(-1)
        return x_0[jnp.arange(task.count), misfit.argmin(1)]

    return draw


def measured(task: Task) -> particles.Potential:
    """The potential of `particles.measurement`."""
    return particles.measurement(task.operator, task.y, task.noise_std)


def plain(task: Task) -> particles.Potential:
    """The potential of `particles.twisted`."""
    return particles.twisted(guidance.likelihood(task.operator, task.y, task.noise_std))


def by_covariance(task: Task) -> tuple[Any, reverse.ReverseStep]:
    """`guidance.mmps`, solved exactly."""
    return guidance.mmps(task.denoise, task.operator, task.y, task.noise_std, task.y.size), task.step


def with_optimal(draw: Callable[[Task], jax.Array]) -> Callable[[Task], jax.Array]:
    """Draw with the step of `Task.optimal`."""
    return lambda task: draw(task.optimal())


METHODS = {
    "no guidance": Method(alone(lambda t: (t.denoise, t.step)), "F"),
    "best of 1 + 2 dy": Method(best_of(lambda dy: 1 + 2 * dy), "(1 + 2 dy) F"),
    "`reverse.dps`, 0.1": Method(alone(lambda t: (t.denoise, reverse.dps(t.step, t.operator, t.y, 0.1))), "F + B"),
    "`guidance.pigdm`, data_std 11.4": Method(
        alone(lambda t: (guidance.pigdm(t.denoise, t.operator, t.y, t.noise_std, 11.4), t.step)), "F + B"
    ),
    "`guidance.mmps`, dy iterations": Method(alone(by_covariance), "F + dy B"),
    "`guidance.mmps`, optimal variance": Method(with_optimal(alone(by_covariance)), "F + dy B"),
    "`particles.twisted`": Method(together(plain), "F + B"),
    "`particles.measurement`": Method(together(measured), "F + dy B"),
    posterior_pages.BEST: Method(with_optimal(together(measured)), "F + dy B"),
}
# Of the last method, clouds of other sizes than 1000, at 8 dimensions; and more steps.
CLOUDS = {f"{size} particles": Method(with_optimal(together(measured, size)), "F + dy B") for size in (100, 10_000)}
MORE_STEPS = {posterior_pages.BEST: 500}


# --- measuring -------------------------------------------------------------------------------------------------------


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


def measure(name: str, method: Method | None, dx: int, dy: int, steps: int, options: Options) -> dict[str, Any]:
    """One cell of a table: the distances for each problem. No method: other exact draws, the floor."""
    problems, count = (2, 100) if options.quick else (options.problems, options.samples)
    draw = None if method is None else drawer(method, dx, steps, count)
    start, found = time.monotonic(), []
    for seed in range(problems):
        law, rng = exact(seed, dx, dy), np.random.default_rng([seed, 1])
        arrays = (jnp.asarray(each, jnp.float32) for each in problem(seed, dx, dy))
        x = law.draw(rng, count) if draw is None else draw(jax.random.key(seed), *arrays)
        found.append(judge(np.asarray(x, np.float64), law, rng))
    row: dict[str, Any] = {"method": name, "dx": dx, "dy": dy, "steps": steps}
    row |= {measure: [each[measure] for each in found] for measure in found[0]}
    return row | {"calls": "" if method is None else method.calls, "seconds": time.monotonic() - start}


def cases(options: Options) -> list[tuple[str, Method | None, int, int, int]]:
    """What is asked for, in the order of the table."""
    rows: dict[str, Method | None] = {posterior_pages.FLOOR: None, **METHODS, **CLOUDS}
    unknown = set(options.methods) - set(rows)
    if unknown:
        raise ValueError(f"no method {', '.join(sorted(unknown))}; choose among {', '.join(rows)}")
    found = []
    for dx, name, dy in itertools.product(options.dims, options.methods or rows, MEASURED):
        more = (MORE_STEPS[name],) if dx == 8 and name in MORE_STEPS else ()
        if dx == 8 or name not in CLOUDS:
            steps = (0,) if name == posterior_pages.FLOOR else (*posterior_pages.STEPS, *more)
            found += [(name, rows[name], dx, dy, each) for each in steps]
    return found


def panels(seed: int, dy: int, options: Options) -> dict[str, np.ndarray]:
    """Samples of one problem of 8 dimensions in 100 steps, by method; the exact ones first."""
    count = 100 if options.quick else options.samples
    arrays = [jnp.asarray(each, jnp.float32) for each in problem(seed, 8, dy)]
    found = {"exact": exact(seed, 8, dy).draw(np.random.default_rng(seed), count)}
    for name, method in METHODS.items():
        found[name] = np.asarray(drawer(method, 8, 100, count)(jax.random.key(seed), *arrays))
    return found


def known(path: Path) -> list[dict[str, Any]]:
    """The rows that were measured before."""
    return json.loads(path.read_text()) if path.exists() else []


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows, a line each."""
    with replacing(path) as file:
        file.write(posterior_pages.lines(rows).encode())


def main(args: list[str]) -> None:
    """Measures what is asked for, and draws everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.posteriors", args, description=__doc__ or "")
    out = options.out or (Path("runs/posteriors") if options.quick else mixture.OUT)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "posteriors.json"
    for case in cases(options):
        row = measure(*case, options)
        others = [each for each in known(path) if posterior_pages.place(each) != posterior_pages.place(row)]
        keep(path, sorted([*others, row], key=posterior_pages.place))
        print(posterior_pages.say(row), flush=True)
    if 8 in options.dims:
        posterior_pages.picture(panels(1, 1, options), out / "posteriors.png")
    posterior_pages.write(known(path), list(METHODS), into_page=out == mixture.OUT)


if __name__ == "__main__":
    cli.script(main)
