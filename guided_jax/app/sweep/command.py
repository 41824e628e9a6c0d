"""`sample.py --sweep`: samples at each scale and seed, their numbers against real pictures, a curve and one page."""

import dataclasses
import hashlib
import itertools
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from guided_jax import data, metrics, parallel
from guided_jax.app import judge
from guided_jax.app import run as runs
from guided_jax.app.sample.request import NO_MATTER, Sampling, determining, flat, trained
from guided_jax.app.sweep import curves as sweep_curves
from guided_jax.app.sweep import page as sweep_page
from guided_jax.app.sweep.settings import HELD_OUT, TRAIN
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.metrics.judge import is_trained
from guided_jax.storage import images
from guided_jax.storage.files import answers, replacing, writable_directory

Write = Callable[..., Path]  # (options, reuse, told) -> the folder with the samples that they ask for
Numbers = dict[str, float]
MOST_SAMPLES = 1000  # at each scale and seed, when no number is given


class Reference(NamedTuple):
    """What samples are measured against, in which features, real pictures that are not it, and the judge's accuracy on
    held-out ones."""

    features: str
    pictures: sets.PictureSet
    others: data.Source | None
    accuracy: Numbers
    prepared: metrics.Reference


def sweep(options: Sampling, run: runs.Run, writer: Callable[[Sampling, runs.Run], Write]) -> None:
    """Draws, measures, and writes sweep.json, sweep.png and sweep.html; what is there already is not done again."""
    settings, seeds = options.sweep, range(options.seed, options.seed + options.sweep.sweep_seeds)
    pictures, others = real_pictures(settings.reference, run)
    count = options.num_samples or min(MOST_SAMPLES, pictures.size)
    options = dataclasses.replace(options, num_samples=count)
    out, said = destination(options), options
    options = dataclasses.replace(options, labels=labels_of(options, run))
    by = looking(options, run)
    see = feature_space.make_extractors(by, parallel.choose_devices(feature_space.BATCH_SIZE), feature_space.BATCH_SIZE)
    summary = see.features(pictures)
    prepared = metrics.prepare(metrics.statistics_of(summary, by.name), summary.features)
    reference = Reference(by.name, pictures, others, accuracy_of(see, run), prepared)
    write = writer(options, run)
    drawn = list(all_drawn(options, write, out, seeds))
    bar = tqdm(drawn, desc="measuring", unit="set")
    rows = [{"scale": scale, "seed": seed, **of_file(folder, see, reference)} for scale, seed, folder in bar]
    real = [{"seed": seed, **of_real(seed, options, see, reference)} for seed in seeds] if others else []
    found = {**described(said, reference), "rows": rows, "real": real, "asked": asked(said)}
    finish(out, found, grids_of(drawn, pictures))


def labels_of(options: Sampling, run: runs.Run) -> tuple[int, ...] | None:
    """The classes to ask for: the given ones, or, where the guidance asks for any, the data's in the data's proportions.

    In turn and not at random: how often a class comes by chance would hide what the scale does.
    """
    method, frequencies = options.method, np.asarray(run.facts.class_frequencies)
    if options.labels or method.any_of or options.base_samples or not method.row.labelled:
        return options.labels
    counts, found = np.zeros_like(frequencies), []
    for i in range(options.num_samples or 0):
        found.append(int(np.argmax(frequencies * (i + 1) - counts)))  # the one that is most behind
        counts[found[-1]] += 1
    return tuple(found)


def all_drawn(options: Sampling, write: Write, out: Path, seeds: Sequence[int]) -> Iterator[tuple[float, int, Path]]:
    """(scale, seed, the folder with its samples) for each, drawn unless they are there."""
    bare = dataclasses.replace(options.sweep, sweep=None)
    for scale in options.sweep.scales:
        for seed in seeds:
            folder = out / f"scale-{scale:g}" / f"seed-{seed}"
            one = dataclasses.replace(options, scale=(scale,), seed=seed, out=folder, sweep=bare)
            yield scale, seed, write(one, reuse=True, told=f"scale {scale:g}, seed {seed}")


def real_pictures(name: str, run: runs.Run) -> tuple[sets.PictureSet, data.Source | None]:
    """(the reference, real pictures to measure against it, if there are any); ValueError for pictures of another shape."""
    training = run.experiment.data.make()
    if name == HELD_OUT:
        return sets.from_source("held-out data", run.experiment.data.make(held_out=True)), training
    if name == TRAIN:
        return sets.from_source("training data", training), judge.pictures_held_out(run)
    found = sets.from_file(name)
    if found is None or found.shape != run.facts.image_shape:
        shape = None if found is None else found.shape
        raise ValueError(f"--reference {name} has pictures of {shape}; the run draws {run.facts.image_shape}")
    return found, training


def looking(options: Sampling, run: runs.Run) -> feature_space.FeatureSpace:
    """The judge, trained if need be, and Inception if it is asked for."""
    place = options.sweep.judge or options.run / "judge"
    if not is_trained(place):
        print(f"no trained judge in {place}: it is trained first, on the run's own clean pictures", flush=True)
        judge.train(judge.Judging(options.run, out=place), run)
    return feature_space.choose(place, options.sweep.inception)


def accuracy_of(see: feature_space.Extractors, run: runs.Run) -> Numbers:
    """The judge's accuracy on the run's held-out pictures, nothing where there are none: it has learned the others."""
    source = judge.pictures_held_out(run)
    if source is None or see.judge is None:
        return {}
    return sets.accuracy(see.judge(sets.from_source("held-out data", source), quiet=True))


def of_file(folder: Path, see: feature_space.Extractors, reference: Reference) -> Numbers:
    """The numbers of samples.npz in a folder."""
    found = sets.from_file(folder / "samples.npz")
    assert found is not None
    return feature_space.evaluate(see, found, reference.prepared)


def of_real(seed: int, options: Sampling, see: feature_space.Extractors, reference: Reference) -> Numbers:
    """What as many real pictures of the same classes get, which are not the reference: about the best to be had."""
    assert reference.others is not None
    real = sets.from_source("real", reference.others)
    order = np.random.default_rng(seed).permutation(real.size)
    rows = order[: options.num_samples]
    if options.labels and real.labels is not None:
        wanted = np.resize(options.labels, options.num_samples or 0)
        each = [order[real.labels[order] == label][: (wanted == label).sum()] for label in np.unique(wanted)]
        rows = np.concatenate(each)
    found = feature_space.evaluate(see, sets.from_source("real", reference.others, np.sort(rows)), reference.prepared)
    found.pop("accuracy", None)
    return {**found, **reference.accuracy}


def asked(options: Sampling) -> dict[str, Any]:
    """What determines the page, for the file beside it: the options, and how far the networks were trained."""
    return {**determining(options), "steps": trained(options)}


def destination(options: Sampling) -> Path:
    """The output folder, made; ValueError when it holds another sweep, which --overwrite removes."""
    method, mine = options.method, asked(options)
    digest = hashlib.sha256(json.dumps(mine).encode()).hexdigest()[:6]
    name = f"{method.guidance}-{options.sweep.sweep}-{method.step_name}-seed{options.seed}-{digest}"
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


def described(options: Sampling, reference: Reference) -> dict[str, Any]:
    """What the page says of how the numbers came about."""
    size, dimension = reference.pictures.size, len(reference.prepared.statistics.mean)
    count = options.num_samples or 0
    others = None if reference.others is None else min(count, len(reference.others))
    return {
        "run": options.run.resolve().name,
        "guidance": options.method.guidance,
        "sampler": options.method.step_name,
        "num_samples": count,
        "labels": f"{' '.join(map(str, options.labels))}, in turn" if options.labels else "in the data's proportions",
        "features": reference.features,
        "dimension": dimension,
        "reference": reference.pictures.describe(),
        "num_real": others,
        "notes": evaluation.notes(count, size, size, dimension),
        "command": command(options),
    }


def command(options: Sampling) -> str:
    """The command line of these options, of those that are not as they come."""
    given, usual = flat(options), flat(Sampling(options.run))
    words = ["python", "sample.py", str(options.run)]
    for name, value in given.items():
        if name not in ("run", *NO_MATTER) and value != usual[name]:
            option = name.replace("_", "-")
            each = value if isinstance(value, tuple) else (value,)
            words += [f"--no-{option}"] if value is False else [f"--{option}"]
            words += [] if isinstance(value, bool) else map(str, each)
    return shlex.join(words)


def finish(out: Path, found: dict[str, Any], grids: Mapping[str, np.ndarray]) -> None:
    """Writes sweep.json, the grids, sweep.png and sweep.html, and prints the table."""
    with replacing(out / "sweep.json") as file:
        file.write(evaluation.as_json(found))
    with replacing(out / "sweep.png") as file:
        file.write(sweep_curves.picture(found))
    with replacing(out / "sweep.html") as file:
        file.write(sweep_page.page(found, grids).encode())
    print(f"\n{sweep_page.text(found)}\n\n{out / 'sweep.html'}, sweep.png and sweep.json beside it")


def grids_of(drawn: Sequence[tuple[float, int, Path]], reference: sets.PictureSet) -> dict[str, np.ndarray]:
    """A grid of samples for each scale, all of the first seed, so of the same noise; and one of the reference."""
    found = {}
    for scale, seed, folder in drawn:
        if seed == drawn[0][1]:
            pictures = sets.from_file(folder / "samples.npz")
            assert pictures is not None
            found[f"scale {scale:g}"] = grid_of(pictures)
    return {**found, "real": grid_of(reference)}


def grid_of(pictures: sets.PictureSet, rows: int = 4, columns: int = 10) -> np.ndarray:
    """The first few of each class, a column a class, where up to 16 classes are known; else the first forty."""
    first = np.concatenate(list(itertools.islice(pictures.chunks(feature_space.BATCH_SIZE), 16)))
    labels = None if pictures.labels is None else pictures.labels[: len(first)]
    chosen = np.arange(min(len(first), rows * columns))
    if labels is not None and (labels >= 0).all() and 2 <= len(classes := np.unique(labels)) <= 16:
        members = [np.flatnonzero(labels == label) for label in classes]
        deep = min(rows, min(map(len, members)))
        chosen, columns = np.array([each[row] for row in range(deep) for each in members]), len(classes)
    return images.grid(first[chosen], columns, scale=max(1, 32 // first.shape[1]))
