"""The Fréchet distance between two clouds of features, accumulated in float64 and extrapolated to infinitely many samples.

Sources: [FID] Heusel et al. 1706.08500; [FID∞] Chong & Forsyth 1911.07023; [Chan] Chan, Golub & LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num


class Moments(NamedTuple):
    """The number, mean and scatter of points, float64; scatter = sum (x - mean)(x - mean)^T. Merged by `merge`."""

    size: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Num[np.ndarray, "n d"]) -> "Moments":
        """Return the moments of points (n, d). ValueError for none and for features that are not finite."""
        features = np.asarray(features, np.float64)
        if not len(features) or not np.isfinite(features).all():
            raise ValueError("features of at least one picture are needed, all of them finite numbers")
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """scatter / (size - 1), unbiased; ValueError for fewer than two points."""
        if self.size < 2:
            raise ValueError(f"a covariance needs at least two points, here is {self.size}")
        return self.scatter / (self.size - 1)


def merge(one: Moments, other: Moments) -> Moments:
    """Return the moments of the union of two sets of points ([Chan] eq. 2.1), in any order of chunks and processes.

    The scatter grows by n m / (n + m) times the square of the difference of the means, which stays exact where a sum of
    squares minus the square of the sum cancels.
    """
    size = one.size + other.size
    apart = other.mean - one.mean
    mean = one.mean + apart * (other.size / size)
    between = np.outer(apart, apart) * (one.size * other.size / size)
    return Moments(size, mean, one.scatter + other.scatter + between)


def add(total: Moments | None, features: Num[np.ndarray, "n d"]) -> Moments:
    """Return the moments with those of further points (n, d). total: None for none so far."""
    found = Moments.of(features)
    return found if total is None else merge(total, found)


def accumulate(chunks: Iterable[Num[np.ndarray, "_ d"]]) -> Moments:
    """Return the moments of all chunks (_, d), in the memory of one. ValueError when there is none."""
    total = None
    for chunk in chunks:
        total = add(total, chunk)
    if total is None:
        raise ValueError("there are no features to accumulate")
    return total


def moments(features: Num[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Return the mean (d,) and the unbiased covariance (d, d) of features (n, d), in float64."""
    found = Moments.of(features)
    return found.mean, found.covariance


def frechet_distance(
    mean: Float[np.ndarray, " d"],
    covariance: Float[np.ndarray, "d d"],
    other_mean: Float[np.ndarray, " d"],
    other_covariance: Float[np.ndarray, "d d"],
    root: Float[np.ndarray, "d d"] | None = None,
) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), in squared units of the features ([FID] eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric.
    mean, other_mean: (d,). covariance, other_covariance: (d, d). root: C^(1/2), computed if not given.

    >>> mean, covariance = np.zeros(3), np.eye(3)
    >>> found = frechet_distance(mean, covariance, mean + np.array([2.0, 0.0, 0.0]), 4 * covariance)
    >>> round(found, 6)  # 2^2 + 3 (2 - 1)^2
    7.0
    """
    root = matrix_root(covariance) if root is None else root
    return _distance(mean, covariance, root, other_mean, other_covariance)


def matrix_root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """C^(1/2), symmetric; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _distance(mean, covariance, root, other_mean, other_covariance):
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0)).sum()
    return float(np.sum((mean - other_mean) ** 2) + np.trace(covariance) + np.trace(other_covariance) - 2 * overlap)


def frechet_infinity(
    features: Num[np.ndarray, "n d"],
    mean: Float[np.ndarray, " d"],
    covariance: Float[np.ndarray, "d d"],
    sizes: int = 15,
    smallest: int | None = None,
    seed: int = 0,
    root: Float[np.ndarray, "d d"] | None = None,
) -> float:
    """The value at 1 / N = 0 of the line through the distances of N of the features: FD∞ ([FID∞]).

    The distance of N samples exceeds that of their distribution by about c / N. N goes in `sizes` even steps from
    `smallest` to all of them, each a draw without replacement; `smallest` is by default a tenth of them, as in [FID∞], and
    no less than 2 d, for below about d the bias is no multiple of 1 / N. The bias of `mean` and `covariance` themselves
    remains. root: of `covariance`, computed if not given. ValueError for fewer features than twice `smallest`.
    """
    count, dimension = features.shape
    smallest = max(count // 10, 2 * dimension) if smallest is None else smallest
    if sizes < 2 or not 2 <= smallest <= count / 2:
        raise ValueError(
            f"a line from {smallest} features of {dimension} numbers needs twice as many, here are {count}"
        )
    generator, root = np.random.default_rng(seed), matrix_root(covariance) if root is None else root
    numbers = np.unique(np.linspace(smallest, count, sizes).astype(int))
    chosen = (features[generator.choice(count, number, replace=False)] for number in numbers)
    found = [_distance(mean, covariance, root, *moments(rows)) for rows in chosen]
    return float(np.polyfit(1 / numbers, found, 1)[1])
