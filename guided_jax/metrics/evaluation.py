"""All metrics of one set of samples against one reference, under the names that JSON files and tables use."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from guided_jax.metrics import classes, frechet, kernel, neighbours
from guided_jax.metrics.files import DINO, INCEPTION, Statistics
from guided_jax.metrics.summary import Summary

# name of a metric -> its title in tables
TITLES: Mapping[str, str] = {
    "accuracy": "class accuracy",
    "fd": "Fréchet distance",
    "sfd": "Fréchet distance, spatial",
    "fd_infinity": "Fréchet distance, extrapolated",
    "fd_dinov2": "FD-DINOv2",
    "kid": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception Score",
    "clip_score": "CLIP score",
    "retrieval_top1": "retrieval, top 1",
    "retrieval_top5": "retrieval, top 5",
}
# Titles with the features of Inception and of DINOv2.
OF_INCEPTION = {"fd": "FID", "sfd": "sFID", "fd_infinity": "FID∞", "kid": "KID"}
OF_DINO = {"fd_infinity": "FD∞-DINOv2", "kid": "KD-DINOv2"}
# Metrics of which more is better; of the others less.
HIGHER = frozenset(
    {"accuracy", "precision", "recall", "density", "coverage", "inception_score"}
    | {"clip_score", "retrieval_top1", "retrieval_top5"}
)
# name of a metric -> name of its standard deviation, or of the standard error of a mean
DEVIATIONS = {
    **{name: f"{name}_std" for name in ("kid", "inception_score")},
    **{name: f"{name}_error" for name in ("clip_score", "retrieval_top1", "retrieval_top5")},
}


class Reference(NamedTuple):
    """What samples are compared with, and what depends on it alone.

    statistics: mean and covariance C of the features. root: C^(1/2). features, and the squared radii of their balls for
    precision and recall (`radii`) and for density and coverage (`radii_density`): None where only statistics are known.
    nearest, nearest_density: the k of the k-th nearest neighbour that each ball reaches to. dino: the reference in DINOv2's
    features, where they are measured beside the others.
    """

    statistics: Statistics
    root: Float[np.ndarray, "d d"]
    features: Float[np.ndarray, "n d"] | None = None
    radii: Float[np.ndarray, " n"] | None = None
    radii_density: Float[np.ndarray, " n"] | None = None
    nearest: int = 3
    nearest_density: int = 5
    dino: "Reference | None" = None


def prepare(
    statistics: Statistics,
    features: Float[np.ndarray, "n d"] | None = None,
    nearest: int = 3,
    nearest_density: int = 5,
) -> Reference:
    """Return the reference for `compare`, so that several sets of samples share what depends on it alone."""
    root = frechet.matrix_root(statistics.covariance)
    if features is None:
        return Reference(statistics, root)
    near, dense = (neighbours.radii_squared(features, k) for k in (nearest, nearest_density))
    return Reference(statistics, root, features, near, dense, nearest, nearest_density)


def evaluate(
    samples: Summary,
    statistics: Statistics,
    reference: Float[np.ndarray, "n d"] | None = None,
    *,
    nearest: int = 3,
    nearest_density: int = 5,
    kid_subsets: int = 100,
    kid_subset_size: int | None = None,
    split_size: int = 5000,
    seed: int = 0,
) -> dict[str, float]:
    """Return `compare(samples, prepare(statistics, reference))`: all metrics of samples against one reference.

    reference: its features (n, d), None where only the statistics are known. The other arguments are those of `compare`
    and `prepare`.
    """
    _check(samples, statistics)
    prepared = prepare(statistics, reference, nearest, nearest_density)
    return compare(samples, prepared, kid_subsets, kid_subset_size, split_size, seed)


def compare(
    samples: Summary,
    reference: Reference,
    kid_subsets: int = 100,
    kid_subset_size: int | None = None,
    split_size: int = 5000,
    seed: int = 0,
) -> dict[str, float]:
    """Return {name: value} of every metric that the data allows, by the names of `TITLES` and `DEVIATIONS`.

    The extrapolated distance needs 4 d samples, d the number of features; every metric except the Fréchet distances needs
    the reference's features. kid_subsets, kid_subset_size: of `kernel_distance`; the size is by default 1000 or half of the
    smaller set, whichever is less. split_size: of `inception_score`. seed: of the random subsets. ValueError when both
    have different numbers of features.
    """
    statistics, root = reference.statistics, reference.root
    target = statistics.mean, statistics.covariance
    found = distance(samples, reference)
    if samples.spatial is not None and statistics.spatial is not None:
        spatial = samples.spatial
        found["sfd"] = frechet.frechet_distance(spatial.mean, spatial.covariance, *statistics.spatial)
    if has_extrapolated(*samples.features.shape):
        found["fd_infinity"] = frechet.frechet_infinity(samples.features, *target, seed=seed, root=root)
    if reference.features is not None:
        both = reference.features, samples.features
        half = min(map(len, both)) // 2
        size = min(1000, half) if kid_subset_size is None else kid_subset_size
        found["kid"], found["kid_std"] = kernel.kernel_distance(*both, kid_subsets, size, seed)
        found |= neighbours.precision_recall(*both, reference.nearest, reference.radii)._asdict()
        found |= neighbours.density_coverage(*both, reference.nearest_density, reference.radii_density)._asdict()
    if samples.logits is not None:
        score = classes.inception_score(classes.softmax(samples.logits), split_size)
        found["inception_score"], found["inception_score_std"] = score
    return found


def distance(samples: Summary, reference: Reference) -> dict[str, float]:
    """Return {name: Frechet distance}, the name that of `distance_name`. ValueError for different numbers of features."""
    statistics, moments = reference.statistics, samples.moments
    _check(samples, statistics)
    target = statistics.mean, statistics.covariance
    value = frechet.frechet_distance(*target, moments.mean, moments.covariance, reference.root)
    return {distance_name(statistics.features): value}


def distance_name(features: str) -> str:
    """Return the name of the Frechet distance in these features: fd_dinov2 in DINOv2's, else fd."""
    return "fd_dinov2" if features.startswith(DINO) else "fd"


def names(
    samples: int,
    dimension: int,
    spatial: bool = False,
    logits: bool = False,
    features: bool = True,
    distances: Sequence[str] = ("fd",),
) -> list[str]:
    """Return the names of the metrics that `compare` computes of so many samples, without their standard deviations.

    dimension: of the features. spatial: whether samples and reference have spatial features. logits: whether the samples
    have logits. features: whether the reference has its features and not only their statistics. distances: the
    `distance_name` of each feature space.
    """
    found = set(distances) | ({"kid", "precision", "recall", "density", "coverage"} if features else set())
    found |= {"sfd"} if spatial else set()
    found |= {"inception_score"} if logits else set()
    found |= {"fd_infinity"} if has_extrapolated(samples, dimension) else set()
    return [name for name in TITLES if name in found]


def has_extrapolated(samples: int, dimension: int) -> bool:
    """Return whether there are enough samples for the extrapolated distance: 4 for each feature."""
    return samples >= 4 * dimension


def _check(samples, statistics):
    pairs = [(samples.moments, statistics.mean, "")]
    if samples.spatial is not None and statistics.spatial is not None:
        pairs.append((samples.spatial, statistics.spatial[0], "spatial "))
    for mine, other, kind in pairs:
        if len(mine.mean) != len(other):
            raise ValueError(f"the samples have {len(mine.mean)} {kind}features and the reference {len(other)}")


def notes(samples: int, behind: int | None, reference: int | None, dimension: int) -> list[str]:
    """Return warnings about metrics of few pictures or of unequal numbers of them, a sentence each.

    samples: how many. behind: how many pictures the reference's statistics are of, None if unknown. reference: how many
    pictures it has, None if only statistics. dimension: of the features.
    """
    found = []
    fewest = min(samples, behind or samples)
    if fewest <= dimension:
        found.append(
            f"{fewest} pictures and {dimension} features: a covariance is singular, and the Fréchet distance is too "
            "large; compare it only with those of as many pictures"
        )
    if reference and not 0.5 <= samples / reference <= 2:
        found.append(
            f"{samples} samples against {reference} reference pictures: precision and recall depend on both numbers"
        )
    return found


def title(name: str, features: str = "") -> str:
    """Return the title of a metric in tables; features: the name of the feature space."""
    own = OF_INCEPTION if features == INCEPTION else OF_DINO if features.startswith(DINO) else {}
    return own.get(name, TITLES[name])


def table(columns: Sequence[tuple[str, Mapping[str, float]]], features: str = "") -> str:
    """Return a table in Markdown: a column for each (name, metrics), a row for each metric that any of them has."""
    names = [name for name in TITLES if any(name in numbers for _, numbers in columns)]
    lines = [["", *(name for name, _ in columns)], ["---"] * (len(columns) + 1)]
    lines += [[title(name, features), *(cell(numbers, name) for _, numbers in columns)] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(numbers: Mapping[str, float], name: str) -> str:
    """Return the text of a metric in a table, with its standard deviation if it has one; empty if it is missing."""
    if name not in numbers:
        return ""
    deviation = numbers.get(DEVIATIONS.get(name, f"{name}_std"), math.nan)
    spread = "" if math.isnan(deviation) else f" ± {deviation:.2g}"
    return f"{numbers[name]:.4g}{spread}"


def as_json(found: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON file, with null in the place of nan, which JSON cannot write."""
    return json.dumps(_without_nan(found), indent=2, ensure_ascii=False).encode()


def _without_nan(found):
    if isinstance(found, Mapping):
        return {key: _without_nan(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_without_nan(value) for value in found]
    return None if isinstance(found, float) and math.isnan(found) else found
