"""What samples are seen by: the features that distances are measured in, and who judges the class."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from guided_jax.metrics import sets
from guided_jax.metrics.evaluation import Reference, compare
from guided_jax.metrics.features import FeatureFunction, extractor, pixels
from guided_jax.metrics.files import INCEPTION
from guided_jax.metrics.inception import features_name, inception_features
from guided_jax.metrics.judge import judge_features, load_judge
from guided_jax.metrics.summary import Summary
from guided_jax.pretrained import inception as inception_weights
from guided_jax.pretrained.readers import read_state_dict

PIXELS, JUDGE = "pixels", "judge"
AT_ONCE = 64  # pictures whose features are taken together, where nobody says otherwise


class FeatureSpace(NamedTuple):
    """features: of distances and neighbours, and what they are called. judge: of the class, at times the same, or None."""

    name: str
    features: FeatureFunction
    judge: FeatureFunction | None


def choose(
    judge: Path | None = None,
    inception: Path | None = None,
    kind: str | None = None,
    preprocessing: Literal["tensorflow", "pytorch-fid"] | None = None,
) -> FeatureSpace:
    """A clean classifier's folder and Inception's weights, each None for none; features of `kind`, pixels, judge or
    inception, by default of the last of these that there is.

    ValueError for what does not go together, and for a folder or weights that are not what they should be.
    """
    kind = kind or (INCEPTION if inception else JUDGE if judge else PIXELS)
    if {INCEPTION: inception, JUDGE: judge}.get(kind, True) is None:
        raise ValueError(f"--features {kind} needs --{kind}; say where it is")
    if inception and kind != INCEPTION:
        raise ValueError(f"--inception is not read with --features {kind}; leave out one of the two")
    if preprocessing and kind != INCEPTION:
        raise ValueError("--preprocessing is for --inception; leave it out")
    judging = load_judge(judge) if judge else None
    judges = judge_features(judging) if judging else None
    if kind == INCEPTION:
        assert inception is not None
        network, params = inception_weights.load(read_state_dict(inception))
        return FeatureSpace(
            features_name(network), inception_features(network, params, preprocessing or "tensorflow"), judges
        )
    if kind == JUDGE:
        assert judging is not None
        assert judges is not None
        return FeatureSpace(judging.name, judges, judges)
    return FeatureSpace(PIXELS, pixels, judges)


class Extractors(NamedTuple):
    """(pictures, quiet=False) -> `Summary`, of the features and of the judge, at times the same, or None."""

    features: Callable[..., Summary]
    judge: Callable[..., Summary] | None


def make_extractors(found: FeatureSpace, devices: Sequence[jax.Device], batch_size: int) -> Extractors:
    """What sees on these devices, so many pictures at a time; compiled once."""

    def by(function: FeatureFunction) -> Callable[..., Summary]:
        extract = extractor(function, devices, batch_size)
        return lambda pictures, quiet=False: sets.summary_of(extract, pictures, batch_size, quiet)

    features = by(found.features)
    return Extractors(features, features if found.judge is found.features else found.judge and by(found.judge))


def summaries(see: Extractors, pictures: sets.PictureSet, quiet: bool = False) -> tuple[Summary, Summary | None]:
    """The summaries of the features and of the judge, which is asked only where it is another."""
    summary = see.features(pictures, quiet=quiet)
    return summary, see.judge and (summary if see.judge is see.features else see.judge(pictures, quiet=quiet))


def evaluate(see: Extractors, pictures: sets.PictureSet, reference: Reference) -> dict[str, float]:
    """All that can be said of these pictures, the accuracy of their labels where there is a judge; without a bar."""
    summary, judged = summaries(see, pictures, quiet=True)
    return {**(sets.judged(judged) if judged else {}), **compare(summary, reference)}
