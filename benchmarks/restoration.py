"""How well each method restores held-out pictures, and whether its samples vary as much as they are wrong.

    guided-jax train digits --diffusion.batch-size 128 --classifier.batch-size 128
    guided-jax judge runs/digits
    python -m benchmarks.restoration runs/digits --page

Of held-out pictures, each measured once, every method of `benchmarks.restoration_methods` draws 19 samples, without a
label. Its setting is the one of a few that is best on other held-out pictures, in the continuous ranked probability score
of a pixel, which is least where the samples follow the posterior. Every setting, seed and number of passes has a file of
its own in RUN/restoration; one that is there is not made again. `--page` fills the tables of the run's name in
docs/methods.md and draws its pictures.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import restoration_pages
from benchmarks.restoration_judge import make_judge, numbers, ranked_score
from benchmarks.restoration_methods import MEASUREMENTS, METHODS, Measured, Method, Problem
from guided_jax import data, guidance, operators, parallel, sampler, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import inverse
from guided_jax.storage.files import replacing

SAMPLES = 19  # of each picture: of 20 equally likely ranks of the truth among them, 18 are within
AT_ONCE = 256  # examples of a program, at most


@dataclasses.dataclass(frozen=True)
class Options:
    """Restore held-out pictures of a run by every method."""

    run: tyro.conf.Positional[Path] = Path("runs/digits")
    judge: Path | None = None
    """RUN/judge, of `guided-jax judge`; of a text-to-image run the run of another CLIP."""
    methods: tuple[str, ...] = tuple(METHODS)
    measurements: tuple[str, ...] = tuple(MEASUREMENTS)
    passes: tuple[int, ...] = (100, 30, 300)
    """Of the network, forward or backward, for a sample; the table is of the first, the curves are of all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each has pictures of its own."""
    pictures: int = 10
    """How many a seed, and for choosing the settings."""
    noise_std: float = 0.05
    """Of the measurement, of pixels in [-1, 1]."""
    page: bool = False
    """Put tables and pictures into docs."""


class Bench(NamedTuple):
    """A run, its weights, its held-out pictures in the order in which they are taken, and their judge."""

    options: Options
    run: runs.Run
    params: Any
    pictures: np.ndarray
    labels: np.ndarray
    data_std: float
    judge: Any

    def rows(self, seed: int) -> np.ndarray:
        """Return the places of a seed's pictures; those of -1 are for choosing."""
        rows = (seed + 1) * self.options.pictures + np.arange(self.options.pictures)
        if rows[-1] >= len(self.pictures):
            raise ValueError(f"there are {len(self.pictures)} held-out pictures; give fewer --pictures or --seeds")
        return rows


def make_bench(options: Options) -> Bench:
    """Return the run's pictures, and the standard deviation of its training pictures around their mean."""
    run = runs.load(options.run)
    if run.latent:
        raise ValueError(f"{options.run} is a run of latents; give one of pixels")
    known, held = (runs.source(run, held_out) for held_out in (False, True))
    order = np.random.default_rng(0).permutation(len(held))[: options.pictures * (max(options.seeds) + 2)]
    batch, some = held.read(order), known.read(np.random.default_rng(1).permutation(len(known))[:2000])["image"]
    data_std = float(np.sqrt(data.scale(some).var(0).mean()))
    labels = batch["label"]
    if run.text is not None:
        captions = dataclasses.replace(run.experiment.data, text="none").make(held_out=True).captions or ()
        labels = np.array([captions[row] for row in order])
    judge = make_judge(run, options.run, options.judge)
    return Bench(options, run, run.params("diffusion"), batch["image"], labels, data_std, judge)


def measure(bench: Bench, measured: Measured, seed: int) -> jax.Array:
    """Return y of a seed's pictures, with noise where there is a measurement."""
    keys = sampler.keys(jax.random.fold_in(jax.random.key(seed + 1), 1), jnp.arange(len(bench.rows(seed))))
    truth = jnp.asarray(data.scale(bench.pictures[bench.rows(seed)]))
    seen = 1.0 if measured.hidden is None else 1 - measured.hidden
    return jax.vmap(lambda key, x: inverse.measure(measured.operator, x, bench.options.noise_std, key, seen))(
        keys, truth
    )


def make_program(bench: Bench, method: Method, measured: Measured, passes: int) -> Callable[..., np.ndarray]:
    """Return (seed, y, knobs) -> samples (SAMPLES, pictures, *shape) of `passes` passes of the network each."""
    run, count = bench.run, max(passes // (method.forward + method.backward), 1)
    levels = schedule.respace(run.model.levels, count)
    norm = operator_norm(measured.operator, run.model.shape)

    def draw(params: Any, key: Any, y: jax.Array, knobs: Sequence[Any]) -> jax.Array:
        plain = runs.make_denoiser(run, params, run.model.condition(params, run.model.null))
        clipped = guidance.clip(plain)
        problem = Problem(
            measured.operator, y, bench.options.noise_std, run.model.levels, bench.data_std, norm, measured.hidden
        )
        guided, step = method.make(plain if method.clips_after else clipped, problem, *knobs)
        key_noise, key_run = jax.random.split(key)
        x_T = levels.sigma[-1] * jax.random.normal(key_noise, run.model.shape)
        return sampler.sample(key_run, guidance.clip(guided) if method.clips_after else guided, step, x_T, levels)

    program = jax.jit(jax.vmap(draw, (None, 0, 0, None)))

    def drawn(seed: int, y: jax.Array, knobs: Sequence[float]) -> np.ndarray:
        pairs = np.arange(SAMPLES * len(y))
        keys, found = sampler.keys(jax.random.key(seed + 1), pairs), []
        size = -(-len(pairs) // -(-len(pairs) // AT_ONCE))  # of equal parts
        for start in range(0, len(pairs), size):
            part = np.arange(start, start + size) % len(pairs)  # the last part is filled up, and cut below
            found.append(program(bench.params, keys[part], y[part % len(y)], [jnp.float32(each) for each in knobs]))
        return np.concatenate(found)[: len(pairs)].reshape(SAMPLES, len(y), *run.model.shape)

    return drawn


def operator_norm(operator: operators.Operator, shape: tuple[int, ...]) -> float:
    """Return |A|, by the power method."""
    x = jax.random.normal(jax.random.key(0), shape)
    for _ in range(50):
        x = operator.adjoint(operator.forward(x / jnp.linalg.norm(x)))
    return float(jnp.sqrt(jnp.linalg.norm(x)))


def kept(place: Path, make: Callable[[], Any]) -> Any:
    """Return the content of a file of JSON, which is made where it is not there."""
    if not place.is_file():
        found = make()
        with replacing(place) as file:
            file.write(json.dumps(found).encode())
    return json.loads(place.read_text())


def place_of(bench: Bench, what: str, *determined_by: Any) -> Path:
    """Return the file of a number; its name has a digest of all that determines it."""
    options = bench.options
    told = [
        what,
        options.noise_std,
        options.pictures,
        bench.judge.name,
        bench.run.trained("last"),
        SAMPLES,
        determined_by,
    ]
    digest = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:8]
    words = "".join(letter if letter.isalnum() else "-" for letter in what)
    return options.run / "restoration" / f"{words}-{digest}.json"


def choose(bench: Bench, name: str, method: Method, measured: Measured, draw: Callable[..., np.ndarray]) -> list[float]:
    """Return the best of a method's settings, on pictures of its own."""
    if len(method.settings) == 1:
        return list(method.settings[0])
    y, truth = measure(bench, measured, -1), data.scale(bench.pictures[bench.rows(-1)])
    scores = {}
    for knobs in method.settings:
        scores[knobs] = ranked_score(draw(-1, y, knobs), truth)
        print(f"choosing {name}, {method.says.format(*knobs)}: {scores[knobs]:.4f}", flush=True)
    return list(min(scores, key=lambda knobs: np.nan_to_num(scores[knobs], nan=np.inf)))


def rows_of(bench: Bench, title: str, name: str) -> list[dict[str, Any]]:
    """Return a row for each number of passes and seed of a method and a measurement."""
    options, method, found = bench.options, METHODS[name], []
    measured = MEASUREMENTS[title](bench.run.model.shape)
    programs: dict[int, Callable[..., np.ndarray]] = {}

    def program(passes: int) -> Callable[..., np.ndarray]:
        if passes not in programs:
            programs[passes] = make_program(bench, method, measured, passes)
        return programs[passes]

    def draw(passes: int, seed: int) -> dict[str, float]:
        drawn, places = program(passes)(seed, measure(bench, measured, seed), knobs), bench.rows(seed)
        if seed == options.seeds[0] and passes == options.passes[0]:
            np.savez_compressed(picture_of(bench, title, name), drawn=drawn[0].astype(np.float16))
        return numbers(drawn, bench.pictures[places], bench.labels[places], measured.hidden, bench.judge)

    settings = place_of(bench, f"setting {title} {name}", options.passes[0], method.settings)
    knobs = kept(settings, lambda: choose(bench, name, method, measured, program(options.passes[0])))
    for passes in options.passes:
        for seed in options.seeds:
            place = place_of(bench, f"{title} {name} {passes} {seed}", knobs)
            row = {"measurement": title, "method": name, "passes": passes, "seed": seed}
            row |= {"setting": method.says.format(*knobs), "calls": method.calls(passes)}
            found.append(row | kept(place, lambda passes=passes, seed=seed: draw(passes, seed)))
            print(restoration_pages.say(found[-1]), flush=True)
    return found


def pairs_of(options: Options) -> list[tuple[str, str]]:
    """Return the methods, each with the measurements that it takes."""
    holes = [title for title in options.measurements if "hidden" in title]
    return [
        (name, title) for name in options.methods for title in (holes if METHODS[name].fills else options.measurements)
    ]


def picture_of(bench: Bench, title: str, name: str) -> Path:
    """Return the file of the first sample of each picture of the first seed."""
    return place_of(bench, f"picture {title} {name}").with_suffix(".npz")


def shown(bench: Bench) -> dict[str, dict[str, np.ndarray]]:
    """Return measurement -> row of the picture -> pictures in [-1, 1]."""
    found = {}
    for title in bench.options.measurements:
        measured, first = MEASUREMENTS[title](bench.run.model.shape), bench.options.seeds[0]
        y = measure(bench, measured, first)
        blocks = {"truth": data.scale(bench.pictures[bench.rows(first)])}
        times = bench.run.model.shape[0] // y.shape[1]
        blocks["measurement"] = np.asarray(y).repeat(times, 1).repeat(times, 2)
        for name in bench.options.methods:
            blocks[name] = np.ones_like(blocks["truth"])  # white, where a method does not take the measurement
            if (name, title) in pairs_of(bench.options):
                with np.load(picture_of(bench, title, name)) as file:
                    blocks[name] = file["drawn"].astype(np.float32)
        found[title] = blocks
    return found


def main(args: Sequence[str]) -> None:
    """Measure what is not there yet, and print the table; with --page put it and the pictures into docs."""
    options = cli.parse(Options, "python -m benchmarks.restoration", args, description=__doc__ or "")
    parallel.use_cpu_devices()
    for kind, names, known in (
        ("method", options.methods, METHODS),
        ("measurement", options.measurements, MEASUREMENTS),
    ):
        if unknown := [each for each in names if each not in known]:
            raise ValueError(f"there is no {kind} {unknown[0]!r}; there is {', '.join(known)}")
    bench = make_bench(options)
    (options.run / "restoration").mkdir(exist_ok=True)
    found = [row for name, title in pairs_of(options) for row in rows_of(bench, title, name)]
    pictures = bench.pictures[np.concatenate([bench.rows(seed) for seed in options.seeds])]
    labels = bench.labels[np.concatenate([bench.rows(seed) for seed in options.seeds])]
    table = restoration_pages.table_of(found, options.passes[0], bench.judge.accuracy(pictures, labels))
    print(f"\n{table}")
    if options.page:
        restoration_pages.write(options.run.name, table, found, shown(bench))


if __name__ == "__main__":
    cli.script(main)
