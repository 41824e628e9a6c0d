"""Feature spaces: the features that metrics are computed from, and the judge of the class."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax.metrics import sets
from guided_jax.metrics.evaluation import Reference, compare
from guided_jax.metrics.features import FeatureFunction, Features, extractor, pixels
from guided_jax.metrics.files import INCEPTION, Statistics
from guided_jax.metrics.inception import features_name, inception_features
from guided_jax.metrics.judge import judge_features, load_judge
from guided_jax.metrics.summary import Summary
from guided_jax.pretrained import inception as inception_weights
from guided_jax.pretrained.readers import read_state_dict

PIXELS, JUDGE = "pixels", "judge"
NEEDED = {INCEPTION: "the file of its weights", JUDGE: "the folder of a trained judge"}
BATCH_SIZE = 64  # pictures at a time


class FeatureSpace(NamedTuple):
    """The features for distances and neighbours, with their name, and the judge of the class: the same, another or None."""

    name: str
    features: FeatureFunction
    judge: FeatureFunction | None


def choose(
    judge: Path | None = None,
    inception: Path | None = None,
    kind: str | None = None,
    preprocessing: Literal["tensorflow", "pytorch-fid"] | None = None,
) -> FeatureSpace:
    """Return the feature space of `kind`, "pixels", "judge" or "inception"; by default the last of these that is given.

    judge: the folder of a trained judge (`metrics.judge`), which also judges the class. inception: a file of Inception's
    weights. preprocessing: of `inception_features`. ValueError for arguments that exclude each other, and for a folder or
    file that holds something else.
    """
    kind = kind or (INCEPTION if inception else JUDGE if judge else PIXELS)
    if {INCEPTION: inception, JUDGE: judge}.get(kind, True) is None:
        raise ValueError(f"features {kind!r} need {kind}=..., {NEEDED[kind]}")
    if inception and kind != INCEPTION:
        raise ValueError(f"inception={str(inception)!r} is not read by features {kind!r}; leave out one of the two")
    if preprocessing and kind != INCEPTION:
        raise ValueError(f"preprocessing={preprocessing!r} is for features 'inception'; leave it out")
    trained = load_judge(judge) if judge else None
    judges = judge_features(trained) if trained else None
    if kind == INCEPTION:
        assert inception is not None
        network, params = inception_weights.load(read_state_dict(inception))
        return FeatureSpace(
            features_name(network), inception_features(network, params, preprocessing or "tensorflow"), judges
        )
    if kind == JUDGE:
        assert trained is not None
        assert judges is not None
        return FeatureSpace(trained.name, judges, judges)
    return FeatureSpace(PIXELS, pixels, judges)


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
    found = jax.eval_shape(space.features, picture)
    return math.prod(found.pool.shape if isinstance(found, Features) else found.shape)


class Extractors(NamedTuple):
    """Functions (pictures, quiet=False) -> `Summary`: by the features, and by the judge, at times the same, or None."""

    features: Callable[..., Summary]
    judge: Callable[..., Summary] | None


def make_extractors(space: FeatureSpace, devices: Sequence[jax.Device], batch_size: int) -> Extractors:
    """Return the extractors of a feature space on these devices, `batch_size` pictures at a time; compiled once."""

    def by(function: FeatureFunction) -> Callable[..., Summary]:
        extract = extractor(function, devices, batch_size)
        return lambda pictures, quiet=False: sets.summary_of(extract, pictures, batch_size, quiet)

    features = by(space.features)
    return Extractors(features, features if space.judge is space.features else space.judge and by(space.judge))


def summaries(extractors: Extractors, pictures: sets.PictureSet, quiet: bool = False) -> tuple[Summary, Summary | None]:
    """Return the summaries by the features and by the judge; one pass where both are the same, None without a judge."""
    summary = extractors.features(pictures, quiet=quiet)
    if extractors.judge is None or extractors.judge is extractors.features:
        return summary, extractors.judge and summary
    return summary, extractors.judge(pictures, quiet=quiet)


def evaluate(extractors: Extractors, pictures: sets.PictureSet, reference: Reference) -> dict[str, float]:
    """Return all metrics of these pictures, with the accuracy of their labels where there is a judge; no progress bar."""
    summary, classified = summaries(extractors, pictures, quiet=True)
    return {**(sets.accuracy(classified) if classified else {}), **compare(summary, reference)}
