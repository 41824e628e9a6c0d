"""Quality per call and per second of guidance that makes fewer calls, on a trained run and the run that learned from it.

    python -m benchmarks.fewer_calls runs/fewer --distilled runs/fewer_distilled

The commands that train both, and their judge, are in docs/samplers.md, under "Fewer calls". Every method is drawn at
several scales and numbers of steps; the judge gives the accuracy, and the Frechet distance to the held-out pictures in its
features. Seconds are those of the processor, of all threads, the compilation left out: other work on the machine does not
count. The numbers are kept in docs/images/fewer-calls.json, one row after the other, and what is there is not drawn again.
The curves go beside it, the table and the error of each cheaper second call into the page. `--quick` draws a few.
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
import tyro

from benchmarks.measured import fill_page, table, where
from benchmarks.sampler_pages import PAGE, lines
from guided_jax import parallel, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import draw, samplers
from guided_jax.app.sample.request import Method
from guided_jax.guidance.interval import is_inside
from guided_jax.metrics import feature_space, sets
from guided_jax.storage.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot

OUT = Path(__file__).parent.parent / "docs" / "images"
SCALES, STEPS = (1.5, 2.0, 3.0), (15, 8)
ERROR_SCALE = 3.0  # of the table of errors
INTERVAL = (0.3, 3.0)  # sigma / alpha
METHODS = {
    "conditional": Method("none"),
    "classifier-free": Method("classifier-free"),
    "distilled": Method("distilled"),
    "internal": Method("internal"),
    "reused, every 2": Method("reused", every=2),
    "interval": Method("classifier-free+interval", interval_low=INTERVAL[0], interval_high=INTERVAL[1]),
    "adaptive": Method("adaptive", stop_cosine=0.98),
    "reused, every 3": Method("reused", every=3),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the guidances that make fewer calls, and draw the curves."""

    run: tyro.conf.Positional[Path] = Path("runs/fewer")
    """A run of a U-Net with an internal head, a null label and a judge in RUN/judge."""
    distilled: Path = Path("runs/fewer_distilled")
    """The run that learned from it by --diffusion.distill-from."""
    count: int = 500
    """Pictures of each setting, as many of every class."""
    batch_size: int = 250
    """Pictures at a time: those of a batch leave out calls together."""
    quick: bool = False
    """A few pictures at one scale, into runs/fewer-calls: no numbers to quote."""
    out: Path | None = None
    """Where fewer-calls.json and the curves go: docs/images, with --quick runs/fewer-calls."""


class Drawing(NamedTuple):
    """Pictures (count, ...) of a method, their labels, the calls of the network a picture, and processor seconds."""

    images: np.ndarray
    labels: np.ndarray
    calls: float
    seconds: float


def method_of(name: str, steps: int) -> Method:
    """The method with so many steps of the default sampler."""
    return dataclasses.replace(METHODS[name], steps=str(steps))


def calls_of(method: Method, levels: schedule.NoiseLevel, saved: np.ndarray | None) -> float:
    """Calls of the network a picture; saved: at how many steps the second one was left out, of those that count it."""
    steps = len(levels.t) - 1
    if method.guidance in ("none", "internal", "distilled"):
        return steps
    if method.guidance == "classifier-free+interval":
        inside = is_inside(jax.tree.map(lambda column: column[1:], levels), method.interval_low, method.interval_high)
        return steps + int(inside.sum())
    return 2 * steps - (0.0 if saved is None else float(np.mean(saved)))


class Sampler:
    """Draws of one method and number of steps, compiled once for all scales."""

    def __init__(self, place: Path, name: str, steps: int, options: Options) -> None:
        """Load the run that the method needs."""
        self.run, self.options, self.method = runs.load(place), options, method_of(name, steps)
        devices = parallel.choose_devices(options.batch_size)
        self.params = draw.place(self.run, {"diffusion": self.run.params("diffusion")}, devices)
        self.levels = samplers.levels_of(self.method, self.run.model.levels)
        self.draw = draw.make_sampler(self.run, self.method, True, devices)
        self._rows(np.arange(options.batch_size), 1.0)  # compiles

    def _rows(self, indices: np.ndarray, scale: float) -> draw.Drawn:
        labels = indices % self.run.facts.num_classes
        return self.draw(self.params, indices, labels, np.full(len(indices), scale), 0)

    def __call__(self, scale: float) -> Drawing:
        """The pictures at a scale."""
        indices = np.arange(self.options.count)
        start = time.process_time()
        parts = [self._rows(part, scale) for part in np.split(indices, len(indices) // self.options.batch_size)]
        seconds = (time.process_time() - start) / len(indices)
        saved = None if parts[0].saved is None else np.concatenate([part.saved for part in parts])
        images = np.concatenate([part.images for part in parts])
        return Drawing(images, indices % self.run.facts.num_classes, calls_of(self.method, self.levels, saved), seconds)


def make_judge(run: runs.Run, folder: Path) -> Callable[[Drawing], dict[str, float]]:
    """Return the function pictures -> accuracy and Frechet distance, by the judge of the run."""
    space, size = feature_space.choose(folder), feature_space.BATCH_SIZE
    extract = feature_space.make_extractors(space, parallel.choose_devices(size), size)
    held_out = sets.from_source("held-out data", runs.source(run, held_out=True))
    reference = feature_space.make_reference(space, extract, held_out, quiet=True)

    def judge(drawing: Drawing) -> dict[str, float]:
        found = feature_space.evaluate(extract, sets.from_arrays("samples", drawing.images, drawing.labels), reference)
        return {"accuracy": found["accuracy"], "distance": found["fd"]}

    return judge


def plan(options: Options) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    """Yield (method, steps, scales), those of the most steps first."""
    for steps, name in itertools.product(STEPS[-1:] if options.quick else STEPS, METHODS):
        yield name, steps, (1.0,) if name == "conditional" else SCALES[1:2] if options.quick else SCALES


def measure(options: Options, path: Path) -> list[dict[str, Any]]:
    """Return the rows of the plan, each written when it is known; those that the file has are kept."""
    known: list[dict[str, Any]] = json.loads(path.read_text())["quality"] if path.is_file() else []
    judge = make_judge(runs.load(options.run), options.run / "judge")
    exact: dict[tuple[float, int], np.ndarray] = {}
    for name, steps, scales in plan(options):
        wanted = [{"method": name, "steps": steps, "scale": scale, "count": options.count} for scale in scales]
        missing = [point for point in wanted if not any(point.items() <= row.items() for row in known)]
        if not missing and name != "classifier-free":
            continue
        sampler = Sampler(options.distilled if name == "distilled" else options.run, name, steps, options)
        for point in wanted if name == "classifier-free" else missing:
            drawing, at = sampler(point["scale"]), (point["scale"], steps)
            if name == "classifier-free":
                exact[at] = drawing.images
            if point in missing:
                error = rms(drawing.images, exact[at]) if at in exact else math.nan
                row = {"calls": drawing.calls, "seconds": drawing.seconds, "error": error, **judge(drawing)}
                known.append(point | row)
                print(known[-1], flush=True)
            with replacing(path) as file:
                file.write(lines({"quality": known}).encode())
        jax.clear_caches()
    return known


def rms(one: np.ndarray, other: np.ndarray) -> float:
    """The root mean square difference of pixels in [-1, 1], of the same noise."""
    return float(np.sqrt(np.mean(np.square((one.astype(np.float64) - other) / 127.5))))


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the smallest distance."""
    return min(rows, key=lambda row: row["distance"])


def quality_table(rows: list[dict[str, Any]]) -> str:
    """Each method at its best scale, for each number of steps."""
    head = ("steps", "method", "calls", "ms a picture", "best scale", "accuracy", "distance")
    body = []
    for steps, name in itertools.product(STEPS, METHODS):
        found = where(rows, method=name, steps=steps)
        if found:
            row, milliseconds = best(found), 1000 * np.median([each["seconds"] for each in found])
            numbers = (f"{row['scale']:g}", f"{row['accuracy']:.3f}", f"{row['distance']:.3g}")
            body.append((str(steps), f"`{name}`", f"{row['calls']:.3g}", f"{milliseconds:.0f}", *numbers))
    return table(head, body)


def error_table(rows: list[dict[str, Any]]) -> str:
    """How far the pictures are from those of two calls a step, from the same noise, at one scale."""
    names = [name for name in METHODS if name not in ("conditional", "classifier-free", "internal")]
    head = ("steps", *(f"`{name}`" for name in names))
    body = []
    for steps in STEPS:
        found = [where(rows, method=name, steps=steps, scale=ERROR_SCALE) for name in names]
        body.append((str(steps), *(f"{each[0]['error']:.3f}" if each else "" for each in found)))
    return table(head, body)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Distance and accuracy against processor time: a line a method over its scales, full at the most steps."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, name in enumerate(METHODS):
        for steps, line in zip(STEPS, ("-", ":"), strict=True):
            found = sorted(where(rows, method=name, steps=steps), key=lambda row: row["scale"])
            if not found:
                continue
            x = [1000 * float(np.median([row["seconds"] for row in found]))] * len(found)
            for axis, what in zip(axes, ("distance", "accuracy"), strict=True):
                y = [row[what] for row in found]
                label = name if steps == STEPS[0] else None
                axis.plot(x, y, line, color=f"C{i}", marker="o", markersize=3, linewidth=1, label=label)
    scales = f"{SCALES[0]:g} to {SCALES[-1]:g}"
    for axis, what in zip(axes, ("distance", "accuracy"), strict=True):
        axis.set(
            xlabel="processor milliseconds a picture",
            title=f"{what}, scales {scales}; full: {STEPS[0]} steps, dotted: {STEPS[1]}",
        )
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].legend(fontsize="small")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def main(args: Any) -> None:
    """Measure what is missing, draw the curves and print the tables; put them into the page unless --quick or --out."""
    options = cli.parse(Options, "python -m benchmarks.fewer_calls", args, description=__doc__ or "")
    if options.quick:
        options = dataclasses.replace(options, count=20, batch_size=20)
    if options.count % options.batch_size:
        raise ValueError(f"--count is {options.count}; give a multiple of --batch-size {options.batch_size}")
    for option, place in (
        ("RUN", options.run),
        ("--distilled", options.distilled),
        ("RUN/judge", options.run / "judge"),
    ):
        if not place.is_dir():
            raise ValueError(f"{option} {place} is not there; docs/samplers.md has the commands that make it")
    parallel.use_cpu_devices()
    out = options.out or (Path("runs/fewer-calls") if options.quick else OUT)
    out.mkdir(parents=True, exist_ok=True)
    rows = measure(options, out / "fewer-calls.json")
    picture(rows, out / "samplers-fewer-calls.png")
    tables = {"fewer calls": quality_table(rows), "fewer calls, error": error_table(rows)}
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if out == OUT:
        fill_page(PAGE, tables)


if __name__ == "__main__":
    cli.script(main)
