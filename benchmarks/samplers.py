"""Quality per network call: every sampler on every grid, on a mixture with exact answers and on the digits of `make demo`.

    python -m benchmarks.samplers

measures four parts, keeps the numbers in docs/images/samplers.json, draws samplers-*.png beside it and puts the tables into
docs/samplers.md. `--parts flow digits` measures some of them anew, `--parts` alone none; quality, the longest, goes on from
what the file has. `--quick` measures less, into runs/samplers, and leaves the page as it is.

- flow: deterministic samplers on the mixture of `benchmarks.mixture`: how far x_0 is from that of a run of 1000 steps from
  the same noise, root mean square over many noises.
- law: stochastic ones there: sliced Wasserstein distance to exact samples.
- digits: the error as in flow, with the trained networks, against 256 steps.
- quality: accuracy and distance of pictures, as `benchmarks.digits` has them, beside those of 250 steps of ddpm.

Calls are those of the guided denoiser, with Heun's and 2S's second and order 3's extra first one. Each is two passes of the
network with classifier-free guidance, and one with a gradient of the classifier with classifier guidance.
"""

import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import mixture, sampler_pages
from guided_jax import data, grid, guidance, metrics, parallel, reverse, sampler, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.demo import comparison
from guided_jax.app.sample import samplers
from guided_jax.app.sample.request import Method
from guided_jax.schedule import NoiseLevel, at
from guided_jax.storage import images
from guided_jax.storage.files import replacing

Part = Literal["flow", "law", "digits", "quality"]
PARTS: tuple[Part, ...] = ("flow", "law", "digits", "quality")
GRIDS = ("respaced", *samplers.GRIDS)
CUT = ("karras", "log-snr")  # start at --sigma-max
TABLES = {"cosine": schedule.cosine(1000), "linear": schedule.linear(1000)}
LONGEST, FINE = 256, 1000  # steps: of a measured run, of the reference


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the samplers and draw the curves."""

    parts: tuple[Part, ...] = PARTS
    """Which to measure; what is not named is taken from the file."""
    quick: bool = False
    """Fewer samples, calls and samplers, to see that all works: no numbers to quote."""
    run: Path = Path("runs/digits")
    """What make demo leaves."""
    out: Path | None = None
    """Where samplers.json and the pictures go: docs/images, with --quick runs/samplers."""


class Row(NamedTuple):
    """A sampler by its name on the command line."""

    method: Method
    calls: Callable[[int], int] = lambda n: n  # in n steps

    def steps(self, calls: int) -> int:
        """The most that so many calls pay for, at least one."""
        return max([1, *(n for n in range(1, calls + 1) if self.calls(n) <= calls)])


def once_more(n: int) -> int:
    """Calls of a method whose first step makes two."""
    return n + 1


def twice(n: int) -> int:
    """Calls of a method of two a step, one into the clean level."""
    return 2 * n - 1


FLOWS = {
    "ddim": Row(Method(sampler="ddim")),
    "dpm++ 2": Row(Method(sampler="dpm++", order=2)),
    "dpm++ 3": Row(Method(sampler="dpm++", order=3), once_more),
    "dpm++2s": Row(Method(sampler="dpm++2s"), twice),
    "unipc 1": Row(Method(sampler="unipc", order=1)),
    "unipc 2": Row(Method(sampler="unipc", order=2)),
    "unipc 3": Row(Method(sampler="unipc", order=3)),
    "deis 2": Row(Method(sampler="deis", order=2)),
    "deis 3": Row(Method(sampler="deis", order=3), once_more),
    "heun": Row(Method(sampler="heun"), twice),
    "reverse-sde, eta 0": Row(Method(sampler="reverse-sde", eta=0.0)),
}
LAWS = {
    "ddpm": Row(Method(sampler="ddpm", variance="small")),
    "ddpm, large": Row(Method(sampler="ddpm", variance="large")),
    "ddpm, optimal": Row(Method(sampler="ddpm")),  # no name on the command line: see `step_of`
    "dpm++ 1, eta 1": Row(Method(sampler="dpm++", order=1, eta=1.0)),
    "dpm++ 2, eta 1": Row(Method(sampler="dpm++", order=2, eta=1.0)),
    "dpm++ 3, eta 1": Row(Method(sampler="dpm++", order=3, eta=1.0), once_more),
    "dpm++2s, eta 1": Row(Method(sampler="dpm++2s", eta=1.0), twice),
    "ddim, eta 0.5": Row(Method(sampler="ddim", eta=0.5)),
    "heun, churn 0.2": Row(Method(sampler="heun", churn=0.2), twice),
    "reverse-sde, eta 1": Row(Method(sampler="reverse-sde", eta=1.0)),
    "langevin, 1 a level": Row(Method(sampler="langevin", corrections=1), once_more),
    "langevin, 10 a level": Row(Method(sampler="langevin", corrections=10), lambda n: 10 * n + 1),
    "predictor-corrector": Row(Method(sampler="predictor-corrector", variance="small"), lambda n: 2 * n),
    "ddim": FLOWS["ddim"],
    "dpm++ 2": FLOWS["dpm++ 2"],
}
ALL = FLOWS | LAWS


def grid_of(row: Row) -> str:
    """The sampler's own on the command line."""
    return samplers.grid_name(row.method)


def levels_of(row: Row, grid: str, table: NoiseLevel, steps: int) -> NoiseLevel:
    """As `sample.py --steps --grid` spreads them."""
    return samplers.levels_of(dataclasses.replace(row.method, grid=grid, steps=str(steps)), table)


def down(key: Any, denoise: Any, step: reverse.ReverseStep, z: Any, levels: NoiseLevel, count: Any) -> Any:
    """`sampler.sample` with the number of steps traced: one program for every number of them, on every grid."""

    def body(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        position = count - i
        key_step = jax.random.fold_in(key, position)
        return step.step(key_step, denoise, *carry, at(levels, position), at(levels, position - 1))

    x_T = at(levels, count).sigma * z
    return jax.lax.fori_loop(0, count, body, (x_T, step.init(x_T)))[0]


def padded(levels: NoiseLevel) -> tuple[NoiseLevel, int]:
    """The table at one of two lengths, the last level repeated, and its number of steps."""
    count = len(levels.t) - 1
    more = (LONGEST if count <= LONGEST else FINE) - count
    return NoiseLevel(*(jnp.pad(column, (0, more), mode="edge") for column in levels)), count


# --- the mixture -----------------------------------------------------------------------------------------------------


@functools.cache
def plane(name: str) -> Callable[..., Any]:
    """(keys, z, scale, levels, count, table) -> x_0 of many z, guided towards the mixture's class 0."""
    make = samplers.row_of(ALL[name].method).make
    if name == "ddpm, optimal":  # the one that has no name on the command line
        best = reverse.ddpm(reverse.optimal_variance(class_spread()))
        make = lambda method, table: best  # noqa: E731

    def one(key: Any, z: Any, scale: Any, levels: NoiseLevel, count: Any, table: NoiseLevel) -> Any:
        denoise = guidance.classifier_free(mixture.C, mixture.U, scale)
        return down(key, denoise, make(ALL[name].method, table), z, levels, count)

    return parallel.parallel_map(one, parallel.choose_devices(1000), in_axes=(0, 0, None, None, None, None))


def class_spread() -> Callable[[NoiseLevel], Any]:
    """Var(x_0 | x_t) of the class, measured as it would be for a network."""
    draws = jax.vmap(lambda key: mixture.MIXTURE.sample(key, 0))(keys_of(5, 2000))
    return reverse.estimated_spread(jax.random.key(6), mixture.C, draws, schedule.respace(TABLES["cosine"], 100))


def keys_of(seed: int, count: int) -> Any:
    """One for each sample."""
    return sampler.keys(jax.random.key(seed), jnp.arange(count))


def draw(name: str, levels: NoiseLevel, table: NoiseLevel, scale: float, count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) samples; the same noise for every sampler."""
    keys = keys_of(seed, count)
    z = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 7), (2,)))(keys)
    levels, steps = padded(levels)
    return plane(name)(keys, z, jnp.float32(scale), levels, jnp.asarray(steps), table)


def flow(quick: bool) -> list[dict]:
    """The error of every deterministic sampler, grid, table and scale, at some numbers of calls."""
    count, budgets = (500, (7, 15)) if quick else (2000, (5, 7, 9, 15, 21, 31, 51, 101))
    names, found = list(FLOWS)[:2] if quick else list(FLOWS), []
    with tqdm(total=len(names) * len(TABLES) * 2, desc="flow", unit="curve") as bar:
        for (kind, table), scale in itertools.product(TABLES.items(), (1.0, 3.0)):
            case = {"table": kind, "scale": scale}
            exact = {whole: draw("dpm++ 3", fine(table, whole), table, scale, count) for whole in (True, False)}
            again = draw("heun", fine(table, False), table, scale, count)
            found.append(case | {"sampler": "the reference by heun", **size(again - exact[False])})
            found.append(case | {"sampler": "the cut at sigma_max", **size(exact[False] - exact[True])})
            for name in names:
                for g, budget in itertools.product(GRIDS, budgets if kind == "cosine" else budgets[1:4:2]):
                    steps = ALL[name].steps(budget)
                    x = draw(name, levels_of(ALL[name], g, table, steps), table, scale, count)
                    gap = size(x - exact[g not in CUT])
                    found.append(case | {"sampler": name, "grid": g, "calls": ALL[name].calls(steps), **gap})
                bar.update()
    return found


def fine(table: NoiseLevel, whole: bool, steps: int = FINE) -> NoiseLevel:
    """The reference's levels, from the table's noisiest or from --sigma-max: a grid has the one that it starts from."""
    return grid.karras(table, steps, sigma_max=math.inf if whole else Method().sigma_max)


def size(gap: np.ndarray) -> dict[str, float]:
    """Root mean square over everything, and the median of the examples' own."""
    squares = np.square(gap.reshape(len(gap), -1).astype(np.float64)).mean(1)
    return {"rms": float(np.sqrt(squares.mean())), "median": float(np.sqrt(np.median(squares)))}


def sliced(one: np.ndarray, other: np.ndarray) -> float:
    """The sliced Wasserstein distance of order 1: the mean, over 64 directions, between sorted projections."""
    angles = np.arange(64) * np.pi / 64
    return metrics.sliced_wasserstein(one, other, np.stack([np.cos(angles), np.sin(angles)]))


def law(quick: bool) -> list[dict]:
    """The distance of the samples to the class's own, of two seeds each; first the floor, that of exact samples."""
    count, budgets = (1000, (10, 20)) if quick else (4000, (6, 10, 20, 50, 100))
    draw_exact = jax.jit(jax.vmap(lambda key: mixture.MIXTURE.sample(key, 0)))
    exact, *others = (np.asarray(draw_exact(keys_of(10 + i, count))) for i in range(9))
    found: list[dict] = [{"sampler": "exact", "distances": [sliced(other, exact) for other in others]}]
    table = TABLES["cosine"]
    for name in tqdm(list(LAWS)[:2] if quick else LAWS, desc="law", unit="sampler"):
        for g, budget in itertools.product([g for g in GRIDS if g != "uniform"], budgets):
            steps = LAWS[name].steps(budget)
            levels = levels_of(LAWS[name], g, table, steps)
            gaps = [sliced(draw(name, levels, table, 1.0, count, seed), exact) for seed in (1, 2)]
            found.append({"sampler": name, "grid": g, "calls": LAWS[name].calls(steps), "distances": gaps})
    return found


# --- the digits ------------------------------------------------------------------------------------------------------

KINDS = {"conditional": 1.0, "classifier": 3.0, "classifier-free": 2.0}  # guidance: scale


class Trained(NamedTuple):
    """The run of `make demo`, and who judges its pictures."""

    run: runs.Run
    params: dict[str, Any]
    devices: list
    judge: Any
    real: np.ndarray

    @classmethod
    def load(cls, place: Path) -> "Trained":
        """ValueError when there is none."""
        if not (place / "config.json").is_file():
            raise ValueError(f"{place} is not there; train it with 'make demo', or name another with --run")
        run = runs.load(place)
        known, held_out = (data.load("digits", split, run.experiment.data.dir) for split in ("train", "test"))
        params = {part: runs.params(place, part) for part in ("diffusion", "classifier")}
        real = comparison.everything(held_out)["image"]
        return cls(run, params, parallel.choose_devices(1000), comparison.judge(known), real)

    def program(self, kind: str, row: Row) -> Callable[..., Any]:
        """(keys, labels, levels, count) -> pictures in [-1, 1], as `sample.py` makes them, compiled once."""
        run, shape, null = self.run, self.run.facts.image_shape, self.run.facts.num_classes

        def one(params: Any, key: Any, label: Any, levels: NoiseLevel, count: Any) -> Any:
            key_noise, key_run, _ = jax.random.split(key, 3)
            model = lambda y: runs.make_denoiser(run, params["diffusion"], y)  # noqa: E731
            logits = lambda x, level: run.classifier(params["classifier"], x, level)  # noqa: E731
            log_prob, scale = guidance.from_logits(logits, label), KINDS[kind]
            step = samplers.row_of(row.method).make(row.method, run.model.levels)
            if kind == "classifier" and row.method.sampler == "ddpm":
                guided, step = model(null), reverse.classifier_ddpm(log_prob, scale)
            elif kind == "classifier":
                guided = guidance.classifier(model(null), log_prob, scale)
            else:
                guided = guidance.classifier_free(model(label), model(null), scale) if scale != 1 else model(label)
            z = jax.random.normal(key_noise, shape)
            return down(key_run, guidance.clip(guided), step, z, levels, count)

        compiled = parallel.parallel_map(one, self.devices, in_axes=(None, 0, 0, None, None))
        placed = parallel.replicate(self.params, self.devices)

        def call(indices: np.ndarray, levels: NoiseLevel) -> np.ndarray:
            keys = sampler.keys(jax.random.fold_in(jax.random.key(0), 0), indices)
            table, count = padded(levels)
            return np.asarray(compiled(placed, keys, indices.astype(np.int32) % null, table, jnp.asarray(count)))

        return call


def converged(trained: Trained, quick: bool) -> list[dict]:
    """The part `digits`: the error against many steps, for each guidance, sampler and grid."""
    count, budgets = (10, (7,)) if quick else (40, (5, 7, 9, 15, 21, 31))
    names = ("dpm++ 2", "ddim") if quick else ("dpm++ 2", "ddim", "dpm++ 3", "dpm++2s", "unipc 2", "deis 3", "heun")
    plan = list(itertools.product(list(KINDS)[:1] if quick else KINDS, names))
    table, indices, found = trained.run.model.levels, np.arange(count), []
    for kind, name in tqdm(plan, desc="digits", unit="program"):
        call = trained.program(kind, FLOWS[name])
        if name == names[0]:
            exact = {whole: call(indices, fine(table, whole, LONGEST)) for whole in (True, False)}
            found.append({"guidance": kind, "sampler": "the cut at sigma_max", **size(exact[False] - exact[True])})
        for g, budget in itertools.product(GRIDS, budgets):
            steps = FLOWS[name].steps(budget)
            gap = size(call(indices, levels_of(FLOWS[name], g, table, steps)) - exact[g not in CUT])
            found.append({"guidance": kind, "sampler": name, "grid": g, "calls": FLOWS[name].calls(steps), **gap})
    return found


CURVES = ("dpm++ 2", "unipc 2", "ddim", "deis 3", "dpm++ 2, eta 1", "heun")
BUDGETS = {"ddim": (5, 8, 10, 15, 20, 30, 50), "dpm++ 2": (5, 8, 10, 15, 20, 30)}
BLOCKS = 2  # a distance for each half of the samples: the difference is what to expect of chance


def plan(quick: bool) -> list[tuple[str, str, list[int]]]:
    """(guidance, sampler, steps), the most telling first; unguided the first four samplers only."""
    curves = CURVES[:1] if quick else CURVES
    chosen = [] if quick else [(kind, "ddpm", [250]) for kind in KINDS]
    for name, kind in itertools.product(curves, KINDS):
        if KINDS[kind] > 1 or name in CURVES[:4]:
            budgets = (5, 10) if quick else BUDGETS.get(name, (5, 10, 15, 20))
            chosen.append((kind, name, [ALL[name].steps(budget) for budget in budgets]))
    return chosen


def quality(trained: Trained, quick: bool, known: list[dict], keep: Callable[[list[dict]], None]) -> None:
    """Accuracy and distance of the pictures, each kept when it is known; what is known already is not drawn again."""
    count, found = 40 if quick else 500, list(known)
    for kind, name, steps in tqdm(plan(quick), desc="quality", unit="curve"):
        wanted = [setting(kind, ALL[name], name, n, count) for n in steps]
        missing = [point for point in wanted if not any(point.items() <= row.items() for row in known)]
        call = trained.program(kind, ALL[name]) if missing else None
        for point in missing:
            found.append(point | judged(trained, call, point))
            keep(found)


def setting(kind: str, row: Row, name: str, steps: int, count: int) -> dict:
    """What determines one point of a curve."""
    place = {"grid": grid_of(row), "steps": steps, "calls": row.calls(steps)}
    return {"guidance": kind, "sampler": name, **place, "count": count}


def judged(trained: Trained, call: Any, point: dict) -> dict:
    """What the judge and the distance say of it."""
    indices = np.arange(point["count"])
    drawn = images.to_uint8(
        call(indices, levels_of(ALL[point["sampler"]], point["grid"], trained.run.model.levels, point["steps"]))
    )
    right = trained.judge.predict(comparison.pixels(drawn)) == indices % trained.run.facts.num_classes
    blocks = [comparison.distance(block, trained.real) for block in np.array_split(drawn, BLOCKS)]
    gap = comparison.distance(drawn, trained.real)
    return {"accuracy": float(right.mean()), "distance": gap, "blocks": blocks}


def measure(part: str, options: Options, known: list[dict], keep: Callable[[list[dict]], None]) -> None:
    """The rows of one part, kept when they are known."""
    if part in ("flow", "law"):
        keep((flow if part == "flow" else law)(options.quick))
    elif part == "digits":
        keep(converged(Trained.load(options.run), options.quick))
    else:
        quality(Trained.load(options.run), options.quick, known, keep)


def known(path: Path) -> dict[str, list[dict]]:
    """What was measured before."""
    return json.loads(path.read_text()) if path.is_file() else {}


def keep(path: Path, part: str, rows: list[dict]) -> None:
    """The part in the file, beside the others."""
    with replacing(path) as file:
        file.write(sampler_pages.lines(known(path) | {part: rows}).encode())


def main(args) -> None:
    """Measures what is asked for, draws and prints everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.samplers", args, description=__doc__ or "")
    parallel.use_cpu_devices()
    out = options.out or (Path("runs/samplers") if options.quick else mixture.OUT)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "samplers.json"
    if {"digits", "quality"} & set(options.parts):
        Trained.load(options.run)
    for part in options.parts:
        start = time.monotonic()
        measure(part, options, known(path).get(part, []), functools.partial(keep, path, part))
        print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
    own = {name: grid_of(row) for name, row in ALL.items()}
    sampler_pages.write(known(path), own, out, into_page=out == mixture.OUT)


if __name__ == "__main__":
    cli.script(main)
