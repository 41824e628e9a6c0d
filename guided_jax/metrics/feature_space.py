"""Feature spaces: the features that metrics are computed from, and the judge of the class."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax.metrics import sets
from guided_jax.metrics.dino import dino_features
from guided_jax.metrics.dino import features_name as dino_name
from guided_jax.metrics.evaluation import Reference, compare, distance, prepare
from guided_jax.metrics.features import FeatureFunction, Features, extractor, pixels
from guided_jax.metrics.files import INCEPTION, Statistics, statistics_of
from guided_jax.metrics.inception import features_name, inception_features
from guided_jax.metrics.judge import judge_features, load_judge
from guided_jax.metrics.summary import Summary
from guided_jax.pretrained import dino as dino_weights
from guided_jax.pretrained import inception as inception_weights
from guided_jax.pretrained.readers import read_state_dict

PIXELS, JUDGE, DINO = "pixels", "judge", "dino"
NEEDED = {
    INCEPTION: "the file of its weights",
    JUDGE: "the folder of a trained judge",
    DINO: "the file of its weights",
}
BATCH_SIZE = 64  # pictures at a time


class NamedFeatures(NamedTuple):
    """A function of one picture, and the name of what it returns, as files have it."""

    name: str
    function: FeatureFunction


class FeatureSpace(NamedTuple):
    """The features for distances and neighbours, with their name, and the judge of the class: the same, another or None.

    dino: DINOv2's features, where the distance in them is measured beside the other metrics; else None.
    """

    name: str
    features: FeatureFunction
    judge: FeatureFunction | None
    dino: NamedFeatures | None = None


def choose(
    judge: Path | None = None,
    inception: Path | None = None,
    kind: str | None = None,
    preprocessing: Literal["tensorflow", "pytorch-fid"] | None = None,
    dino: Path | None = None,
) -> FeatureSpace:
    """Return the feature space of `kind`, "inception", "judge", "dino" or "pixels"; by default the first that is given.

    judge: the folder of a trained judge (`metrics.judge`), which also judges the class. inception, dino: files of weights.
    preprocessing: of `inception_features`. With dino and another kind, FD-DINOv2 is measured beside the other metrics.
    ValueError for arguments that exclude each other, and for a folder or file that holds something else.
    """
    given = {INCEPTION: inception, JUDGE: judge, DINO: dino}
    kind = kind or next((name for name, place in given.items() if place), PIXELS)
    _check(kind, given, preprocessing)
    trained = load_judge(judge) if judge else None
    judges = judge_features(trained) if trained else None
    beside = load_dino(dino) if dino else None
    if kind == INCEPTION:
        assert inception is not None
        own = load_inception(inception, preprocessing or "tensorflow")
        return FeatureSpace(*own, judges, beside)
    if kind == JUDGE:
        assert trained is not None
        assert judges is not None
        return FeatureSpace(trained.name, judges, judges, beside)
    if kind == DINO:
        assert beside is not None
        return FeatureSpace(*beside, judges)
    return FeatureSpace(PIXELS, pixels, judges, beside)


def _check(kind: str, given: Mapping[str, Path | None], preprocessing: str | None) -> None:
    """Raise ValueError for arguments of `choose` that exclude each other."""
    if given.get(kind, True) is None:
        raise ValueError(f"features {kind!r} need {kind}=..., {NEEDED[kind]}")
    if given[INCEPTION] and kind != INCEPTION:
        raise ValueError(
            f"inception={str(given[INCEPTION])!r} is not read by features {kind!r}; leave out one of the two"
        )
    if preprocessing and kind != INCEPTION:
        raise ValueError(f"preprocessing={preprocessing!r} is for features 'inception'; leave it out")


def load_inception(path: Path, preprocessing: Literal["tensorflow", "pytorch-fid"]) -> NamedFeatures:
    """Return Inception's features with the weights of a file; errors as of `read_state_dict` and its importer."""
    network, params = inception_weights.load(read_state_dict(path))
    return NamedFeatures(features_name(network), inception_features(network, params, preprocessing))


def load_dino(path: Path) -> NamedFeatures:
    """Return DINOv2's features with the weights of a file; errors as of `read_state_dict` and its importer."""
    network, params = dino_weights.load(None, read_state_dict(path))
    return NamedFeatures(dino_name(network), dino_features(network, params))


def check_shapes(
    space: FeatureSpace, samples: sets.PictureSet, reference: sets.PictureSet | None, statistics: Statistics | None
) -> None:
    """Raise ValueError, before any picture is read, for pictures that the features do not take or that do not compare.

    reference: its pictures, statistics: its stored ones, each None if there are none.
    """
    own = _dimension(space, samples)
    others = [] if reference is None else [(reference.describe_shape(), _dimension(space, reference))]
    if statistics is not None and statistics.features == space.name:
        others.append(("statistics", len(statistics.mean)))
    for what, dimension in others:
        if dimension != own:
            raise ValueError(
                f"{space.name} features: the samples ({samples.describe_shape()}) have {own} features and the reference "
                f"{dimension} ({what}); compare pictures of one shape"
            )


def _dimension(space: FeatureSpace, pictures: sets.PictureSet) -> int:
    """Return the number of features of these pictures, by their shape alone."""
    picture = jax.ShapeDtypeStruct(pictures.shape, jnp.uint8)
    if space.judge is not None and space.judge is not space.features:
        jax.eval_shape(space.judge, picture)
    if space.dino is not None:
        jax.eval_shape(space.dino.function, picture)
    found = jax.eval_shape(space.features, picture)
    return math.prod(found.pool.shape if isinstance(found, Features) else found.shape)


class Extractors(NamedTuple):
    """Functions (pictures, quiet=False) -> `Summary`: by the features; by the judge, at times the same, or None; by DINOv2
    where it is measured beside them, else None."""

    features: Callable[..., Summary]
    judge: Callable[..., Summary] | None
    dino: Callable[..., Summary] | None = None


def make_extractors(space: FeatureSpace, devices: Sequence[jax.Device], batch_size: int) -> Extractors:
    """Return the extractors of a feature space on these devices, `batch_size` pictures at a time; compiled once."""

    def by(function: FeatureFunction) -> Callable[..., Summary]:
        extract = extractor(function, devices, batch_size)
        return lambda pictures, quiet=False: sets.summary_of(extract, pictures, batch_size, quiet)

    features = by(space.features)
    judge = features if space.judge is space.features else space.judge and by(space.judge)
    return Extractors(features, judge, space.dino and by(space.dino.function))


def summaries(extractors: Extractors, pictures: sets.PictureSet, quiet: bool = False) -> tuple[Summary, Summary | None]:
    """Return the summaries by the features and by the judge; one pass where both are the same, None without a judge."""
    summary = extractors.features(pictures, quiet=quiet)
    if extractors.judge is None or extractors.judge is extractors.features:
        return summary, extractors.judge and summary
    return summary, extractors.judge(pictures, quiet=quiet)


def make_reference(
    space: FeatureSpace, extractors: Extractors, pictures: sets.PictureSet, quiet: bool = False
) -> Reference:
    """Return the reference that `evaluate` compares with: these pictures in the features, and by DINOv2 beside them."""
    summary = extractors.features(pictures, quiet=quiet)
    reference = prepare(statistics_of(summary, space.name), summary.features)
    if space.dino is None or extractors.dino is None:
        return reference
    beside = statistics_of(extractors.dino(pictures, quiet=quiet), space.dino.name)
    return reference._replace(dino=prepare(beside))


def evaluate(extractors: Extractors, pictures: sets.PictureSet, reference: Reference) -> dict[str, float]:
    """Return all metrics of these pictures, with the accuracy of their labels where there is a judge; no progress bar."""
    summary, classified = summaries(extractors, pictures, quiet=True)
    found = {**(sets.accuracy(classified) if classified else {}), **compare(summary, reference)}
    if extractors.dino is None or reference.dino is None:
        return found
    return found | distance(extractors.dino(pictures, quiet=True), reference.dino)
