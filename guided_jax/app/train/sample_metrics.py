"""Metrics of samples against held-out data while the diffusion model trains: Fréchet distance, precision and the like."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, metrics, parallel
from guided_jax.app import best_checkpoint, facts
from guided_jax.app import run as runs
from guided_jax.app.sample import draw
from guided_jax.app.train import grids
from guided_jax.app.translate import JUDGE, translate_errors
from guided_jax.metrics import evaluation, feature_space, sets

MIN_PICTURES = 10  # on either side, for neighbours and subsets


class SampleMetrics(NamedTuple):
    """names: of the metrics, as rows have them. description: what is compared, in words. evaluate: state -> metrics."""

    names: frozenset[str]
    description: str
    evaluate: Callable[[Any], dict[str, float]]


def make(run: runs.Run, held_out: Callable[[], data.Source]) -> SampleMetrics | None:
    """Return the metrics of samples of the averaged parameters against held-out data; None with `measure_every` 0.

    The samples are those of `guided-jax sample` with the default sampler, as many of every class, and the run's seed; the
    noise is the same at every evaluation. Of several processes the first evaluates, on its own devices, or, where the
    parameters are divided over them, all do. Raises ValueError for settings or data that cannot be measured.
    """
    settings = run.experiment.diffusion
    if not settings.measure_every or not settings.num_steps:
        return None
    reference = held_out()
    _check(run, len(reference))
    with translate_errors(JUDGE):
        space = feature_space.choose(settings.measure_judge, settings.measure_inception, dino=settings.measure_dino)
    names = frozenset(f"{best_checkpoint.SAMPLES}{name}" for name in metric_names(space, run))
    pictures = sets.from_source("held-out data", reference)
    devices = parallel.choose_devices(settings.batch_size, run.experiment.devices)
    devices = devices if run.experiment.shard_parameters else parallel.local_devices(devices)
    sample = _make_sampler(run, devices)
    return SampleMetrics(
        names, _describe(run, space, pictures), _make_evaluation(run, space, pictures, sample, devices)
    )


def _check(run: runs.Run, held_out: int) -> None:
    settings = run.experiment.diffusion
    facts.check_pictures(run.facts, "--diffusion.measure-every")
    if min(settings.measure_samples, held_out) < MIN_PICTURES:
        raise ValueError(
            f"{settings.measure_samples} samples and {held_out} held-out pictures are too few to be measured; give "
            f"--diffusion.measure-samples {MIN_PICTURES} or more, and as much held-out data"
        )
    if run.low_res:
        raise ValueError(
            "--diffusion.measure-every is for networks that start from noise, and an upsampler starts from other pictures; "
            "draw with guided-jax sample --base-samples and measure with guided-jax metrics"
        )
    if settings.measure_scale != 1 and run.model.null is None:
        raise ValueError(
            f"--diffusion.measure-scale is {settings.measure_scale}, and a network without a null label is not guided; "
            "leave it out"
        )


def metric_names(space: feature_space.FeatureSpace, run: runs.Run) -> list[str]:
    """Return the metrics that a feature space gives; ValueError for pictures of a shape that it does not take."""
    settings, picture = run.experiment.diffusion, jax.ShapeDtypeStruct(run.facts.image_shape, jnp.uint8)
    features = jax.eval_shape(space.features, picture)
    has_spatial, has_logits = features.spatial is not None, features.logits is not None
    distances = [evaluation.distance_name(name) for name in (space.name, *(space.dino[:1] if space.dino else ()))]
    names = evaluation.names(settings.measure_samples, features.pool.size, has_spatial, has_logits, distances=distances)
    if space.dino is not None:
        jax.eval_shape(space.dino.function, picture)
    if space.judge is None or not run.conditional or run.facts.labelling != "class":
        return names
    jax.eval_shape(space.judge, picture)
    return ["accuracy", *names]


def _describe(run: runs.Run, space: feature_space.FeatureSpace, reference: sets.PictureSet) -> str:
    """Return what is compared, and a note for each metric that needs more pictures."""
    count = run.experiment.diffusion.measure_samples
    size = jax.eval_shape(space.features, jax.ShapeDtypeStruct(run.facts.image_shape, jnp.uint8)).pool.size
    what = f"measuring {count} samples ({metrics.balance(classes_of(run))}) against {reference.describe()}, by {space.name}"
    return "\n".join(
        [what, *(f"note: {note}" for note in evaluation.notes(count, reference.size, reference.size, size))]
    )


def labels_of(run: runs.Run) -> np.ndarray:
    """Return the label of each sample: classes in turn, or spread over all when there are fewer samples than classes.

    -1 for a network without labels. Where they are no classes they are those of the held-out examples, in turn.
    """
    count, classes = run.experiment.diffusion.measure_samples, run.facts.num_classes
    indices = np.arange(count)
    if not run.conditional:
        return np.full(count, -1)
    if run.facts.labelling != "class":
        source = runs.source(run, held_out=True)
        return source.read(indices % len(source))["label"]
    return indices % classes if count >= classes else indices * classes // count


def classes_of(run: runs.Run) -> np.ndarray | None:
    """Return the class of each sample, None where labels are no classes."""
    return labels_of(run) if run.facts.labelling == "class" or not run.conditional else None


def _make_evaluation(
    run: runs.Run,
    space: feature_space.FeatureSpace,
    pictures: sets.PictureSet,
    sample: Callable[[Any], draw.Drawn],
    devices: list[jax.Device],
) -> Callable[[Any], dict[str, float]]:
    """Return the function state -> metrics; the reference is computed at the first call."""
    at_once, classes = feature_space.BATCH_SIZE, classes_of(run)
    extract = feature_space.make_extractors(space, parallel.dividing_prefix(devices, at_once), at_once)

    @functools.cache
    def reference() -> metrics.Reference:
        return feature_space.make_reference(space, extract, pictures, quiet=True)

    def evaluate(state: Any) -> dict[str, float]:
        drawn = sample(state.ema)
        if not drawn.finite.all():  # black pictures would have metrics too
            grids.warn_non_finite(int(state.step), int((~drawn.finite).sum()), len(drawn.finite))
            return {}
        samples = sets.from_arrays("samples", drawn.images, classes)
        values = feature_space.evaluate(extract, samples, reference())
        return {f"{best_checkpoint.SAMPLES}{name}": values[name] for name in evaluation.TITLES if name in values}

    return evaluate


def _make_sampler(run: runs.Run, devices: list[jax.Device]) -> Callable[[Any], draw.Drawn]:
    """Return the function averaged parameters -> samples, with the same keys every time; compiled once."""
    experiment, labels = run.experiment, labels_of(run)
    settings, sharded = experiment.diffusion, experiment.shard_parameters
    method = grids.default_method(run, settings.measure_scale)
    draw_rows = draw.make_sampler(run, method, run.conditional, devices, mapping=draw.choose_map(experiment))
    scales = np.full(len(labels), settings.measure_scale)
    chunk = parallel.chunk_size(len(labels), settings.batch_size, devices)

    def sample(ema: Any) -> draw.Drawn:
        # Divided weights stay where they are, also those that every device holds whole because a group is one device.
        weights = run.complete(ema if sharded else parallel.first_copy(ema))
        params = {"diffusion": weights if sharded else parallel.place(weights, devices)}
        rows = lambda i: draw_rows(params, i, labels[i], scales[i], experiment.seed)  # noqa: E731
        chunks = list(parallel.map_in_chunks(rows, len(labels), chunk))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)

    return sample
