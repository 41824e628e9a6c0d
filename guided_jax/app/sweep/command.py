"""Draw samples at several scales and seeds, measure them against real pictures, and write curves and one page of it."""

import dataclasses
import hashlib
import itertools
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_jax import data, metrics, parallel, progress
from guided_jax.app import cli, facts, judge
from guided_jax.app import run as runs
from guided_jax.app.sample import checks, guidances, samplers
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.labels import resolve_labels
from guided_jax.app.sample.request import HELD_OUT, NOT_RECORDED, TRAIN, Label, Sampling, flatten, option, recorded
from guided_jax.app.sweep import curves, page, scales
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.metrics.judge import is_trained
from guided_jax.storage import images
from guided_jax.storage.files import answers, replacing, writable_directory

PAGE = """
usage: guided-jax sweep RUN --guidance NAME [--scales SCALES] [OPTIONS]

Draw at several scales and seeds, measure the samples against real pictures, and leave one page
with the numbers, error bars, curves and pictures: sweep.html, sweep.png, sweep.json.

  guided-jax sweep runs/digits --guidance classifier-free
  guided-jax sweep runs/digits --guidance classifier --scales 0,1,2.5 --seeds 2 --num-samples 500

  --scales SCALES      0:8 for 0, 1 .. 8 (default), 0:8:0.5 in steps of 0.5, or 0,1,2.5
  --seeds INT          seeds at each scale; error bars are their standard deviation (default 3)
  --num-samples INT    at each scale and seed; default: as many as the reference has, up to 1000
  --reference WHAT     held-out (default), train, or an npz file of pictures
  --judge FOLDER       a judge by 'guided-jax judge'; default: RUN/judge, trained if missing
  --inception WEIGHTS  measure FID and its kin, in the features of Inception-v3
  and the options of guided-jax sample: --labels, --sampler, --steps, --seed, --out, ...
"""
DEFAULT_SCALES = "0:8"
MOST_SAMPLES = 1000  # at each scale and seed, without --num-samples
Metrics = dict[str, float]


def main(args: Sequence[str]) -> None:
    """Sweep over the scales that the command line names."""
    options = cli.parse(Sampling, "guided-jax sweep", args, description=PAGE)
    given = dataclasses.replace(options.sweep, sweep=options.sweep.sweep or DEFAULT_SCALES)
    sweep(dataclasses.replace(options, sweep=given))


def sweep(options: Sampling) -> None:
    """Sweep over the scales of the options, for the run directory that they name."""
    words = scales.spell(options.sweep.sweep or DEFAULT_SCALES)
    options = dataclasses.replace(options, sweep=dataclasses.replace(options.sweep, sweep=words))
    scales.parse(words)
    parallel.use_cpu_devices()
    run = runs.load(options.run, options.data_dir)
    options = resolve_labels(options, run.facts)
    checks.check(options, run)
    sweep_run(options, run)


class Reference(NamedTuple):
    """What samples are measured against.

    pictures: the reference, in the features of that name. others: real pictures beside the reference, measured like
    samples. accuracy: the judge's on held-out pictures. prepared: the reference's statistics.
    """

    features: str
    pictures: sets.PictureSet
    others: data.Source | None
    accuracy: Metrics
    prepared: metrics.Reference


def sweep_run(options: Sampling, run: runs.Run) -> Path:
    """Draw, measure, and write sweep.json, sweep.png and sweep.html; return their folder."""
    seeds = range(options.seed, options.seed + options.sweep.sweep_seeds)
    pictures, others = real_pictures(options.sweep.reference, run)
    count = options.num_samples or min(MOST_SAMPLES, pictures.size)
    options = dataclasses.replace(options, num_samples=count)
    out, described = destination(options, run), options
    options = dataclasses.replace(options, labels=labels_of(options, run))
    space = choose_features(options, run)
    batch = feature_space.BATCH_SIZE
    extractors = feature_space.make_extractors(space, parallel.choose_devices(batch), batch)
    summary = extractors.features(pictures)
    prepared = metrics.prepare(metrics.statistics_of(summary, space.name), summary.features)
    reference = Reference(space.name, pictures, others, accuracy_of(extractors, run), prepared)
    drawn = list(draw_all(options, run, out, seeds))
    rows = []
    with progress.bar(len(drawn), "measuring", "set") as bar:
        for scale, seed, folder in drawn:
            rows.append({"scale": scale, "seed": seed, **of_file(folder, extractors, reference)})
            bar.update()
    real = [{"seed": seed, **of_real(seed, options, extractors, reference)} for seed in seeds] if others else []
    found = {**describe(described, reference), "rows": rows, "real": real, "asked": request(described, run)}
    save(out, found, grids_of(drawn, pictures))
    return out


def labels_of(options: Sampling, run: runs.Run) -> tuple[Label, ...] | None:
    """Return the given classes, or, where the guidance uses a label, those of the data in the data's proportions.

    In turn and not at random: how often a class comes by chance would hide what the scale does.
    """
    method, frequencies = options.method, np.asarray(run.facts.class_frequencies)
    drawn = guidances.row_of(method).labelled and run.facts.labelling == "class"
    if options.labels or method.any_of or options.base_samples or not drawn:
        return options.labels
    counts, found = np.zeros_like(frequencies), []
    for i in range(options.num_samples or 0):
        found.append(int(np.argmax(frequencies * (i + 1) - counts)))  # the class that is most behind its share
        counts[found[-1]] += 1
    return tuple(found)


def draw_all(options: Sampling, run: runs.Run, out: Path, seeds: Sequence[int]) -> Iterator[tuple[float, int, Path]]:
    """Yield (scale, seed, the folder with its samples), drawn unless they are there."""
    write = sample.make_writer(options, run)
    bare = dataclasses.replace(options.sweep, sweep=None)
    for scale in scales.parse(options.sweep.sweep or DEFAULT_SCALES):
        for seed in seeds:
            folder = out / f"scale-{scale:g}" / f"seed-{seed}"
            one = dataclasses.replace(options, scale=(scale,), seed=seed, out=folder, sweep=bare)
            yield scale, seed, write(one, reuse=True, label=f"scale {scale:g}, seed {seed}")


def real_pictures(name: str, run: runs.Run) -> tuple[sets.PictureSet, data.Source | None]:
    """Return (the reference, real pictures to measure against it, if any); ValueError for pictures of another shape."""
    if name == HELD_OUT:
        return sets.from_source("held-out data", runs.source(run, held_out=True)), runs.source(run)
    if name == TRAIN:
        return sets.from_source("training data", runs.source(run)), judge.pictures_held_out(run)
    found = sets.from_file(name)
    if found is None or found.shape != run.facts.image_shape:
        shape = None if found is None else found.shape
        raise ValueError(f"--reference {name} has pictures of {shape}; the run draws {run.facts.image_shape}")
    return found, runs.source(run)


def choose_features(options: Sampling, run: runs.Run) -> feature_space.FeatureSpace:
    """Return the features of the judge, trained if need be, or those of Inception if they are asked for."""
    if run.facts.labelling != "class" and options.sweep.judge is None:  # no judge can be trained
        if options.sweep.inception is None:
            facts.check_classes(run.facts, "a judge", "measure by --inception WEIGHTS")
        return feature_space.choose(None, options.sweep.inception)
    place = options.sweep.judge or options.run / "judge"
    if not is_trained(place):
        print(f"no trained judge in {place}: it is trained first, on the run's own clean pictures", flush=True)
        judge.train(judge.Judging(options.run, out=place), run)
    return feature_space.choose(place, options.sweep.inception)


def accuracy_of(extractors: feature_space.Extractors, run: runs.Run) -> Metrics:
    """Return the judge's accuracy on the run's held-out pictures, nothing where there are none: it learned the others."""
    source = judge.pictures_held_out(run)
    if source is None or extractors.judge is None:
        return {}
    return sets.accuracy(extractors.judge(sets.from_source("held-out data", source), quiet=True))


def of_file(folder: Path, extractors: feature_space.Extractors, reference: Reference) -> Metrics:
    """Return the metrics of samples.npz in a folder."""
    found = sets.from_file(folder / "samples.npz")
    assert found is not None
    return feature_space.evaluate(extractors, found, reference.prepared)


def of_real(seed: int, options: Sampling, extractors: feature_space.Extractors, reference: Reference) -> Metrics:
    """Return the metrics of as many real pictures of the same classes beside the reference: about the best to be had."""
    assert reference.others is not None
    real = sets.from_source("real", reference.others)
    order = np.random.default_rng(seed).permutation(real.size)
    rows = order[: options.num_samples]
    if options.labels and real.labels is not None:
        wanted = np.resize(options.labels, options.num_samples or 0)
        each = [order[real.labels[order] == label][: (wanted == label).sum()] for label in np.unique(wanted)]
        rows = np.concatenate(each)
    chosen = sets.from_source("real", reference.others, np.sort(rows))
    found = feature_space.evaluate(extractors, chosen, reference.prepared)
    found.pop("accuracy", None)
    return {**found, **reference.accuracy}


def request(options: Sampling, run: runs.Run) -> dict[str, Any]:
    """Return what determines the page: the options, and how far the networks were trained."""
    return {**recorded(options), "steps": sample.trained_steps(options, run)}


def destination(options: Sampling, run: runs.Run) -> Path:
    """Return the output folder, made; ValueError when it holds another sweep, which --overwrite removes."""
    method, mine = options.method, request(options, run)
    digest = hashlib.sha256(json.dumps(mine).encode()).hexdigest()[:6]
    step = samplers.step_name(method)
    name = f"{method.guidance}-{options.sweep.sweep}-{step}-seed{options.seed}-{digest}"
    out = writable_directory(options.out or options.run / "sweeps" / name.replace(":", "-"))
    made, drawn = out / "sweep.json", list(out.glob("scale-*"))
    if answers(made, mine):
        return out
    if (made.exists() or drawn) and not options.overwrite:
        raise ValueError(f"{out} holds another sweep; give another --out, or --overwrite")
    for stale in drawn:
        shutil.rmtree(stale)
    with replacing(made) as file:
        file.write(evaluation.as_json({"asked": mine}))
    return out


def describe(options: Sampling, reference: Reference) -> dict[str, Any]:
    """Return what the page says of how the metrics came about."""
    size, dimension = reference.pictures.size, len(reference.prepared.statistics.mean)
    count = options.num_samples or 0
    others = None if reference.others is None else min(count, len(reference.others))
    return {
        "run": options.run.resolve().name,
        "guidance": options.method.guidance,
        "sampler": samplers.step_name(options.method),
        "num_samples": count,
        "labels": f"{' '.join(map(str, options.labels))}, in turn" if options.labels else "in the data's proportions",
        "features": reference.features,
        "dimension": dimension,
        "reference": reference.pictures.describe(),
        "num_real": others,
        "notes": evaluation.notes(count, size, size, dimension),
        "command": command_line(options),
    }


def command_line(options: Sampling) -> str:
    """Return the command of these options, without those at their defaults."""
    given, defaults = flatten(options), flatten(Sampling(options.run))
    words = ["guided-jax", "sweep", str(options.run)]
    for name, value in given.items():
        if name not in ("run", *NOT_RECORDED) and value != defaults[name]:
            each = value if isinstance(value, tuple) else (value,)
            words += [option(f"no_{name}") if value is False else option(name)]
            words += [] if isinstance(value, bool) else map(str, each)
    return shlex.join(words)


def save(out: Path, found: dict[str, Any], grids: Mapping[str, np.ndarray]) -> None:
    """Write sweep.json, sweep.png and sweep.html, and print the table."""
    with replacing(out / "sweep.json") as file:
        file.write(evaluation.as_json(found))
    with replacing(out / "sweep.png") as file:
        file.write(curves.picture(found))
    with replacing(out / "sweep.html") as file:
        file.write(page.page(found, grids).encode())
    print(f"\n{page.text(found)}\n\n{out / 'sweep.html'}, sweep.png and sweep.json beside it")


def grids_of(drawn: Sequence[tuple[float, int, Path]], reference: sets.PictureSet) -> dict[str, np.ndarray]:
    """Return a grid of samples for each scale, all of the first seed, so of the same noise; and one of the reference."""
    found = {}
    for scale, seed, folder in drawn:
        if seed == drawn[0][1]:
            pictures = sets.from_file(folder / "samples.npz")
            assert pictures is not None
            found[f"scale {scale:g}"] = grid_of(pictures)
    return {**found, "real": grid_of(reference)}


def grid_of(pictures: sets.PictureSet, rows: int = 4, columns: int = 10) -> np.ndarray:
    """Return the first few of each class, a column a class, where up to 16 classes are known; else the first forty."""
    first = np.concatenate(list(itertools.islice(pictures.chunks(feature_space.BATCH_SIZE), 16)))
    labels = None if pictures.labels is None else pictures.labels[: len(first)]
    chosen = np.arange(min(len(first), rows * columns))
    if labels is not None and (labels >= 0).all() and 2 <= len(classes := np.unique(labels)) <= 16:
        members = [np.flatnonzero(labels == label) for label in classes]
        deep = min(rows, min(map(len, members)))
        chosen, columns = np.array([each[row] for row in range(deep) for each in members]), len(classes)
    return images.grid(first[chosen], columns, scale=max(1, 32 // first.shape[1]))
