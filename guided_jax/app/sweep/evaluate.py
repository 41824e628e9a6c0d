"""The real pictures of a sweep, the features, and the metrics of every set of samples in them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from guided_jax import data, metrics, parallel, progress
from guided_jax.app import facts, judge
from guided_jax.app import run as runs
from guided_jax.app.sample.request import HELD_OUT, TRAIN, Sampling
from guided_jax.app.translate import JUDGE, translate_errors
from guided_jax.metrics import feature_space, sets
from guided_jax.metrics.judge import is_trained

Metrics = dict[str, float]
Drawn = Sequence[tuple[float, int, Path]]  # (scale, seed, the folder with its samples)


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
    return found, None if run.source is None else runs.source(run)


def choose_features(options: Sampling, run: runs.Run) -> feature_space.FeatureSpace:
    """Return the features of Inception if they are asked for, else of the judge; a judge of the run's own is trained.

    DINOv2's are beside them, or alone where there is nothing else. Raises ValueError where --judge names no trained judge,
    and where there is nothing to train one with.
    """
    given, inception, dino = options.sweep.judge, options.sweep.inception, options.sweep.dino
    place = given or options.run / "judge"
    trains = run.source is not None and run.text is None and run.facts.labelling == "class"
    if given is None and not parallel.from_primary(lambda: is_trained(place)):
        if not trains and (inception or dino):
            return feature_space.choose(None, inception, dino=dino)
        if run.text is not None:
            raise ValueError(
                "a run of prompts has no classes to train a judge on; name one by --judge, or give --inception or --dino"
            )
        facts.check_classes(run.facts, "a judge", "measure by --inception WEIGHTS or --dino WEIGHTS")
        if run.source is None:
            raise ValueError(
                "this run has no data to train a judge with; name one by --judge, or give --inception or --dino"
            )
        print(f"no trained judge in {place}: it is trained first, on the run's own clean pictures", flush=True)
        devices = None if options.devices is None else len(devices_for(feature_space.BATCH_SIZE, options))
        judge.train(judge.Judging(options.run, out=place, devices=devices), run)
    with translate_errors(JUDGE):
        return feature_space.choose(place, inception, dino=dino)


def make_reference(
    options: Sampling, run: runs.Run, pictures: sets.PictureSet, others: data.Source | None
) -> tuple[feature_space.Extractors, Reference]:
    """Return the extractors of the features, and the reference in them."""
    space, (_, processes) = choose_features(options, run), parallel.share()
    batch = -(-feature_space.BATCH_SIZE // processes) * processes  # which divides over any number of processes
    extractors = feature_space.make_extractors(space, devices_for(batch, options), batch)
    prepared = feature_space.make_reference(space, extractors, pictures)
    return extractors, Reference(space.name, pictures, others, accuracy_of(extractors, run), prepared)


def warn_of_same_judge(run: runs.Run, reference: Reference) -> None:
    """Print a note where the judge that measures is the one that guided."""
    if run.judge is not None and run.judge.name == reference.features:
        print(
            "note: the same judge guides and measures, which says nothing of the samples; train another one by "
            "'guided-jax judge RUN --out FOLDER --seed 1', and name it by --judge",
            file=sys.stderr,
        )


def devices_for(batch_size: int, options: Sampling) -> list[jax.Device]:
    """Return the devices to spread a batch over: of those that --devices asks for as many as divide it."""
    if options.devices is None:
        return parallel.choose_devices(batch_size)
    return parallel.dividing_prefix(parallel.choose_devices(options.devices, options.devices), batch_size)


def evaluate(
    drawn: Drawn,
    options: Sampling,
    extractors: feature_space.Extractors,
    reference: Reference,
) -> dict[str, Any]:
    """Return the metrics of every set of samples, and those of real pictures for each seed."""
    rows = []
    with progress.bar(len(drawn), "measuring", "set", disable=not parallel.primary()) as bar:
        for scale, seed, folder in drawn:
            rows.append({"scale": scale, "seed": seed, **of_file(folder, extractors, reference)})
            bar.update()
    seeds = seeds_of(options) if reference.others else ()
    return {"rows": rows, "real": [{"seed": seed, **of_real(seed, options, extractors, reference)} for seed in seeds]}


def seeds_of(options: Sampling) -> range:
    """Return the seeds of a sweep."""
    return range(options.seed, options.seed + options.sweep.sweep_seeds)


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
