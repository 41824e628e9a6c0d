"""Precision and recall, density and coverage: how sets of features lie in the balls around each other's points.

Each point has a ball that reaches to the k-th nearest other point of its own set. All balls are closed. Distances are
float64, in blocks; the features themselves are in memory. Sources: [PR] Kynkäänniemi et al. 1904.06991; [DC] Naeem et al.
2002.09797.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

# Distances in memory at a time: 128 MB.
BLOCK = 2**24


class PrecisionRecall(NamedTuple):
    """Precision and recall, both shares from 0 to 1."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density, about 1 for equal distributions and at times above it, and coverage, a share from 0 to 1."""

    density: float
    coverage: float


def radii_squared(features: Num[np.ndarray, "n d"], k: int) -> Float[np.ndarray, " n"]:
    """Return the squared distance of each point to its k-th nearest other point. ValueError for k points or fewer."""
    if not 1 <= k < len(features):
        raise ValueError(f"the {k}-th nearest neighbour needs more than {max(k, 1)} points, here are {len(features)}")
    features = np.asarray(features, np.float64)
    # The point itself is among them, at distance 0, in place 0.
    found = [np.partition(distances, k, axis=1)[:, k] for _, distances in _blocks(features, features)]
    return np.concatenate(found)


def precision_recall(
    reference: Num[np.ndarray, "n d"],
    samples: Num[np.ndarray, "m d"],
    k: int = 3,
    radii: Float[np.ndarray, " n"] | None = None,
) -> PrecisionRecall:
    """Return the share of samples in any reference ball, and of reference points in any sample's ball ([PR] eq. 1, 2).

    reference: (n, d), samples: (m, d). k: balls reach to the k-th nearest neighbour. Both shares depend on the numbers of
    points: compare only those of equal n and equal m. radii: `radii_squared` of the reference, computed if not given.

    >>> square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> precision_recall(square, square / 2, k=1)
    PrecisionRecall(precision=1.0, recall=0.75)
    """
    reference, samples = (np.asarray(each, np.float64) for each in (reference, samples))
    of_reference = radii_squared(reference, k) if radii is None else radii
    of_samples = radii_squared(samples, k)
    inside, reached = [], np.zeros(len(reference), bool)
    for _, distances in _blocks(samples, reference):
        inside.append((distances <= of_reference).any(1))
    for rows, distances in _blocks(reference, samples):
        reached[rows] = (distances <= of_samples).any(1)
    return PrecisionRecall(float(np.concatenate(inside).mean()), float(reached.mean()))


def density_coverage(
    reference: Num[np.ndarray, "n d"],
    samples: Num[np.ndarray, "m d"],
    k: int = 5,
    radii: Float[np.ndarray, " n"] | None = None,
) -> DensityCoverage:
    """Return the number of reference balls around a sample, its mean over k, and the share of balls with a sample ([DC] 3).

    One far reference point with a large ball spoils precision but not density. reference: (n, d), samples: (m, d). radii:
    `radii_squared` of the reference, computed if not given.
    """
    reference, samples = (np.asarray(each, np.float64) for each in (reference, samples))
    radii = radii_squared(reference, k) if radii is None else radii
    within, covered = 0, np.zeros(len(reference), bool)
    for _, distances in _blocks(samples, reference):
        inside = distances <= radii
        within += int(inside.sum())
        covered |= inside.any(0)
    return DensityCoverage(float(within / (k * len(samples))), float(covered.mean()))


def _blocks(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (a slice of rows, their squared distances to all columns): |r|^2 - 2 r c + |c|^2, never below 0."""
    size, norms = max(1, BLOCK // len(columns)), (columns**2).sum(1)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        distances = (part**2).sum(1)[:, None] - 2 * (part @ columns.T) + norms[None]
        yield slice(start, start + len(part)), np.maximum(distances, 0)
