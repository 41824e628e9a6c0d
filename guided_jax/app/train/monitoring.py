"""What is looked at while a network trains: grids and numbers of its samples, and curves.

guided-jax curves runs/digits

writes the curves and the event files of a run again, from its metrics.jsonl.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from guided_jax import data, metrics, parallel, sampler
from guided_jax.app import best_checkpoint as keeping
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import drawing
from guided_jax.app.sample.request import Method
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.storage import images, log
from guided_jax.storage import tensorboard as events

LEAST = 10  # pictures on either side, for neighbours and subsets
Hook = tuple[int, Callable[[int, Any], None]]  # (every so many steps, what is called with (steps done, state))
# Metric -> the panel of curves.png that it shares with others; those of no panel here have one of their own.
PANELS = {
    **dict.fromkeys(("samples_fd", "samples_fd_infinity"), "Fréchet distance of samples"),
    "samples_sfd": "Fréchet distance of samples, spatial",
    "samples_kid": "kernel distance of samples",
    **dict.fromkeys(("samples_precision", "samples_recall"), "precision, recall"),
    **dict.fromkeys(("samples_density", "samples_coverage"), "density, coverage"),
    "samples_accuracy": "class accuracy of samples",
    "samples_inception_score": "Inception Score of samples",
}


def method_of(run: runs.Run, scale: float, steps: str | None = None) -> Method:
    """The fast sampler, guided where the network can be; at scale 1 guided or not is the same, and not guided is faster."""
    guided = run.experiment.diffusion.null_label and scale != 1
    return Method("classifier-free" if guided else "none", steps=steps)


def sample_hook(run: runs.Run, out: Path) -> list[Hook]:
    """Every so many steps a grid, a column a class: guided where the network can be, drawn from the averaged weights."""
    settings, classes = run.experiment.diffusion, min(run.facts.num_classes, 16)
    if not settings.sample_every or settings.low_res:  # an upsampler has nothing to start from here
        return []
    method = method_of(run, 2.0, str(min(25, run.levels.t.size - 1)))
    draw = jax.jit(jax.vmap(drawing.drawing(run, method, settings.conditional), (None, 0, 0, None)))

    def hook(done: int, state: Any) -> None:
        indices = np.arange(4 * classes)
        keys = sampler.keys(jax.random.key(run.experiment.seed), indices)
        # Replicated parameters from the host, or every device would draw the same; divided ones stay where they are.
        params = {"diffusion": state.ema if run.experiment.shard_parameters else jax.device_get(state.ema)}
        pictures = images.to_uint8(draw(params, keys, jnp.asarray(indices % classes), 2.0))
        path = out / "diffusion" / f"samples-{done:06d}.png"
        images.save_png(path, images.grid(pictures, columns=classes, scale=runs.zoom(run.facts)))

    return [(settings.sample_every, hook)]


class Measures(NamedTuple):
    """names: of the numbers that there will be, as rows have them. said: how they come about, in words. evaluate: state ->
    the numbers."""

    names: frozenset[str]
    said: str
    evaluate: Callable[[Any], dict[str, float]]


def measuring(run: runs.Run, held_out: Callable[[], data.Source]) -> Measures | None:
    """What measures samples of the averaged weights against held-out data; None where nobody asks for it.

    As many of every class, the same noise every time: what `sample.py` draws with its default sampler, these labels and
    this scale and seed. ValueError for what cannot be measured. Of several processes one evaluates, on its own devices.
    """
    settings = run.experiment.diffusion
    if not settings.measure_every or not settings.num_steps:
        return None
    reference = held_out()
    _check(run, len(reference))
    found = feature_space.choose(settings.measure_judge, settings.measure_inception)
    names = frozenset(f"{keeping.MEASURED}{name}" for name in names_of(found, run))
    pictures = sets.from_source("held-out data", reference)
    devices = parallel.local_devices(parallel.choose_devices(settings.batch_size, run.experiment.devices))
    draw = _drawing(run, devices)
    return Measures(names, _said(run, found, pictures), _evaluation(run, found, pictures, draw, devices))


def _check(run: runs.Run, held_out: int) -> None:
    settings = run.experiment.diffusion
    if min(settings.measure_samples, held_out) < LEAST:
        raise ValueError(
            f"{settings.measure_samples} samples and {held_out} held-out pictures are too few to be measured; give "
            f"--diffusion.measure-samples and the held-out data at least {LEAST}"
        )
    if not math.isfinite(settings.measure_scale):
        raise ValueError(f"--diffusion.measure-scale is {settings.measure_scale}; give a finite number")
    if settings.low_res:
        raise ValueError(
            "--diffusion.measure-every is for networks that start from noise, and an upsampler starts from other pictures; "
            "draw with sample.py --base-samples and measure with guided-jax metrics"
        )
    if settings.measure_scale != 1 and not settings.null_label:
        raise ValueError(
            f"--diffusion.measure-scale is {settings.measure_scale}, and a network without a null label is not guided; "
            "leave it out"
        )


def names_of(found: feature_space.FeatureSpace, run: runs.Run) -> list[str]:
    """What can be measured by these; ValueError for pictures that they cannot see."""
    settings, picture = run.experiment.diffusion, jax.ShapeDtypeStruct(run.facts.image_shape, jnp.uint8)
    seen = jax.eval_shape(found.features, picture)
    there = {"fd", "kid", "precision", "recall", "density", "coverage"}
    there |= {"sfd"} if seen.spatial is not None else set()
    there |= {"inception_score"} if seen.logits is not None else set()
    there |= {"fd_infinity"} if evaluation.has_extrapolated(settings.measure_samples, seen.pool.size) else set()
    if found.judge is not None and settings.conditional:
        jax.eval_shape(found.judge, picture)
        there.add("accuracy")
    return [name for name in evaluation.TITLES if name in there]


def _said(run: runs.Run, found: feature_space.FeatureSpace, reference: sets.PictureSet) -> str:
    """What the numbers are of, and what to beware of."""
    count = run.experiment.diffusion.measure_samples
    size = jax.eval_shape(found.features, jax.ShapeDtypeStruct(run.facts.image_shape, jnp.uint8)).pool.size
    what = (
        f"measuring {count} samples ({metrics.balance(labels_of(run))}) against {reference.describe()}, by {found.name}"
    )
    return "\n".join(
        [what, *(f"note: {note}" for note in evaluation.notes(count, reference.size, reference.size, size))]
    )


def labels_of(run: runs.Run) -> np.ndarray:
    """The classes to ask for, in turn; of fewer samples than classes, spread over all. -1 for a network told none."""
    count, classes = run.experiment.diffusion.measure_samples, run.facts.num_classes
    indices = np.arange(count)
    if not run.experiment.diffusion.conditional:
        return np.full(count, -1)
    return indices % classes if count >= classes else indices * classes // count


def _evaluation(
    run: runs.Run,
    found: feature_space.FeatureSpace,
    pictures: sets.PictureSet,
    draw: Callable[[Any], np.ndarray],
    devices: list[jax.Device],
) -> Callable[[Any], dict[str, float]]:
    see, labels = (
        feature_space.make_extractors(
            found, parallel.dividing_prefix(devices, feature_space.BATCH_SIZE), feature_space.BATCH_SIZE
        ),
        labels_of(run),
    )

    @functools.cache
    def reference() -> metrics.Reference:
        summary = see.features(pictures, quiet=True)
        return metrics.prepare(metrics.statistics_of(summary, found.name), summary.features)

    def evaluate(state: Any) -> dict[str, float]:
        numbers = feature_space.evaluate(see, sets.from_arrays("samples", draw(state.ema), labels), reference())
        return {f"{keeping.MEASURED}{name}": numbers[name] for name in evaluation.TITLES if name in numbers}

    return evaluate


def _drawing(run: runs.Run, devices: list[jax.Device]) -> Callable[[Any], np.ndarray]:
    """Averaged weights -> uint8 samples, with the same keys every time; compiled once."""
    experiment, labels = run.experiment, labels_of(run)
    settings, sharded = experiment.diffusion, experiment.shard_parameters
    method = method_of(run, settings.measure_scale)
    call = drawing.any_drawer(run, method, settings.conditional, devices, sharded=sharded)
    scales = np.full(len(labels), settings.measure_scale)
    chunk = parallel.chunk_size(len(labels), settings.batch_size, devices)

    def draw(ema: Any) -> np.ndarray:
        params = {"diffusion": ema if sharded else parallel.place(jax.device_get(ema), devices)}
        one = lambda rows: call(params, rows, labels[rows], scales[rows], experiment.seed)  # noqa: E731
        return np.concatenate(list(parallel.map_in_chunks(one, len(labels), chunk)))

    return draw


def curves(directory: Path, tensorboard: bool) -> Callable[[int, Any], None]:
    """(steps done, state) -> curves.png, and the event file: begun anew at the first call, which may repeat what a run that
    was killed has written, and after that what is new."""
    written: list[int] = []

    def draw(done: int, state: Any = None) -> None:
        rows = log.read(directory / "metrics.jsonl")
        if not rows:
            return
        log.plot(directory / "metrics.jsonl", directory / "curves.png", PANELS)
        if tensorboard:
            record(directory, rows, done, max(written, default=None))
            written.append(done)

    return draw


def record(directory: Path, rows: Sequence[dict[str, Any]], until: int, after: int | None = None) -> None:
    """The event file of one network: its rows and grids, up to a step and after another."""
    grids = [(int(path.stem[8:]), path) for path in directory.glob("samples-*.png") if path.stem[8:].isdigit()]
    pictures = [events.Picture(step, "samples/grid", path) for step, path in grids if step <= until]
    tagged = [{tag(name): value for name, value in row.items()} for row in rows if row["step"] <= until]
    events.write(directory / events.NAME, tagged, pictures, after)


def tag(name: str) -> str:
    """samples_fd -> samples/fd: TensorBoard shows together what is before the stroke."""
    kinds = "|".join(kind.rstrip("_") for kind in (keeping.MEASURED, keeping.HELD_OUT))
    found = re.fullmatch(f"({kinds})_(.*)", name)
    return "/".join(found.groups()) if found else name if name == "step" else f"training/{name}"


@dataclasses.dataclass(frozen=True)
class Watching:
    """Write the curves and the event files of a run again, from its metrics.jsonl."""

    run: tyro.conf.Positional[Path]
    """The directory that train.py wrote."""


def main(args: Sequence[str]) -> None:
    """Writes curves.png and the event file of every network that has rows."""
    options = cli.parse(Watching, "guided-jax curves", args, description=__doc__)
    runs.load(options.run)
    for part in ("diffusion", "classifier"):
        directory = options.run / part
        if rows := log.read(directory / "metrics.jsonl"):
            curves(directory, tensorboard=True)(rows[-1]["step"], None)
            print(f"{directory / 'curves.png'} and {directory / events.NAME}: {len(rows)} rows")
