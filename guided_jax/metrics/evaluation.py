"""All numbers for one set of samples against one reference, under the names that JSON files and tables use."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from guided_jax.metrics import classes, frechet, kernel, neighbours
from guided_jax.metrics.files import INCEPTION, Statistics
from guided_jax.metrics.summary import Summary

# name -> what tables call it
TITLES: Mapping[str, str] = {
    "accuracy": "class accuracy",
    "fd": "Fréchet distance",
    "sfd": "Fréchet distance, spatial",
    "fd_infinity": "Fréchet distance, extrapolated",
    "kid": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception Score",
}
# What those of Inception's features are called.
OF_INCEPTION = {"fd": "FID", "sfd": "sFID", "fd_infinity": "FID∞", "kid": "KID"}
# Those of which more is better; of the others less.
HIGHER = frozenset({"accuracy", "precision", "recall", "density", "coverage", "inception_score"})
# name -> the name of its standard deviation
DEVIATIONS = {"kid": "kid_std", "inception_score": "inception_score_std"}


class Reference(NamedTuple):
    """What samples are measured against, with what is the same for any of them. root: C^(1/2). features, and the squared
    radii of their balls for precision and for density: None where only the statistics are known."""

    statistics: Statistics
    root: Float[np.ndarray, "d d"]
    features: Float[np.ndarray, "n d"] | None = None
    radii: Float[np.ndarray, " n"] | None = None
    radii_density: Float[np.ndarray, " n"] | None = None
    nearest: int = 3
    nearest_density: int = 5


def prepare(
    statistics: Statistics,
    features: Float[np.ndarray, "n d"] | None = None,
    nearest: int = 3,
    nearest_density: int = 5,
) -> Reference:
    """A reference for `compare`, where many sets are measured against one."""
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
    """`compare` with what `prepare` makes of a reference: its statistics, and its features if they are there."""
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
    """The numbers by the names of `TITLES`, those that can be had; standard deviations by the names of `DEVIATIONS`.

    The extrapolated distance needs 4 d samples; what is no Fréchet distance needs the reference's features.
    kid_subset_size: by default 1000 or half of the smaller set, whichever is less. ValueError when the features of both
    are not equally many.
    """
    statistics, root = reference.statistics, reference.root
    _check(samples, statistics)
    law = statistics.mean, statistics.covariance
    found = {"fd": frechet.frechet_distance(*law, samples.moments.mean, samples.moments.covariance, root)}
    if samples.spatial is not None and statistics.spatial is not None:
        spatial = samples.spatial
        found["sfd"] = frechet.frechet_distance(spatial.mean, spatial.covariance, *statistics.spatial)
    if has_extrapolated(*samples.features.shape):
        found["fd_infinity"] = frechet.frechet_infinity(samples.features, *law, seed=seed, root=root)
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


def has_extrapolated(samples: int, dimension: int) -> bool:
    """Whether so many samples are enough for the extrapolated distance."""
    return samples >= 4 * dimension


def _check(samples, statistics):
    pairs = [(samples.moments, statistics.mean, "")]
    if samples.spatial is not None and statistics.spatial is not None:
        pairs.append((samples.spatial, statistics.spatial[0], "spatial "))
    for mine, other, kind in pairs:
        if len(mine.mean) != len(other):
            raise ValueError(f"the samples have {len(mine.mean)} {kind}features and the reference {len(other)}")


def notes(samples: int, behind: int | None, reference: int | None, dimension: int) -> list[str]:
    """What the numbers of pictures do to the numbers of the table, a sentence each.

    behind: how many pictures the reference's statistics are of, if that is known. reference: how many it has, if any.
    """
    said = []
    fewest = min(samples, behind or samples)
    if fewest <= dimension:
        said.append(
            f"{fewest} pictures and {dimension} features: a covariance is singular, and the Fréchet distance is too "
            "large; compare it only with those of as many pictures"
        )
    if reference and not 0.5 <= samples / reference <= 2:
        said.append(
            f"{samples} samples against {reference} reference pictures: precision and recall depend on both numbers"
        )
    return said


def title(name: str, features: str = "") -> str:
    """What tables call a number of these features."""
    return (OF_INCEPTION if features == INCEPTION else {}).get(name, TITLES[name])


def table(columns: Sequence[tuple[str, Mapping[str, float]]], features: str = "") -> str:
    """Markdown: a column for each (name, numbers), a row for each number that any of them has."""
    names = [name for name in TITLES if any(name in numbers for _, numbers in columns)]
    lines = [["", *(name for name, _ in columns)], ["---"] * (len(columns) + 1)]
    lines += [[title(name, features), *(cell(numbers, name) for _, numbers in columns)] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(numbers: Mapping[str, float], name: str) -> str:
    """The number as a table has it, with its deviation if it has one, empty if it is not there."""
    if name not in numbers:
        return ""
    deviation = numbers.get(DEVIATIONS.get(name, f"{name}_std"), math.nan)
    spread = "" if math.isnan(deviation) else f" ± {deviation:.2g}"
    return f"{numbers[name]:.4g}{spread}"


def as_json(found: Mapping[str, Any]) -> bytes:
    """As a file has it: null for what is not a number, which JSON cannot write."""
    return json.dumps(_without_nan(found), indent=2, ensure_ascii=False).encode()


def _without_nan(found):
    if isinstance(found, Mapping):
        return {key: _without_nan(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_without_nan(value) for value in found]
    return None if isinstance(found, float) and math.isnan(found) else found
