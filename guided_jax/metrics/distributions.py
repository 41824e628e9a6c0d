"""How far samples are from an exact law, from which draws can be made: for methods that claim to draw it.

Each measure is of points in the space of x_0 itself, in float64 on the host. `noise_floor` is what draws of the exact law
have: a method is not to be told from exact where it has no more.

Sources: [SW] Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", JMIV 2015; [HDR] Hyndman,
"Computing and Graphing Highest Density Regions", The American Statistician 1996.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Num

from guided_jax.metrics.summary import MeanStd


def sliced_wasserstein(
    x: Num[np.ndarray, "n d"], y: Num[np.ndarray, "m d"], slices: int | Num[np.ndarray, "d s"] = 100, seed: int = 0
) -> float:
    """Mean over directions u and ranks i of |(x u)_(i) - (y u)_(i)|: the sliced Wasserstein distance of order 1 ([SW]).

    x, y: (n, d) each, m = n.
    slices: the number of random directions, or unit vectors (d, s).
    seed: of the directions.
    ValueError for sets of different sizes.

    >>> x = np.random.default_rng(0).normal(size=(1000, 2))
    >>> round(sliced_wasserstein(x + np.array([0.3, 0.0]), x, 2000), 2)  # of a shift, its length times 2 / pi in the plane
    0.19
    """
    if x.shape != y.shape:
        raise ValueError(f"the sets have shapes {x.shape} and {y.shape}; give as many points of each, of one dimension")
    if isinstance(slices, int):
        normal = np.random.default_rng(seed).standard_normal((x.shape[1], slices))
        slices = normal / np.linalg.norm(normal, axis=0)
    return float(np.abs(np.sort(x @ slices, 0) - np.sort(y @ slices, 0)).mean())


def mode_weights(x: Num[np.ndarray, "n d"], modes: Num[np.ndarray, "k d"]) -> Float[np.ndarray, " k"]:
    """Return the share of the points that are nearest to each mode, (k,).

    x: (n, d). modes: (k, d), such as the means of a mixture.

    >>> mode_weights(np.array([[0.9], [1.2], [-1.0]]), np.array([[-1.0], [1.0]])).round(2)
    array([0.33, 0.67])
    """
    distances = np.square(modes).sum(1) - 2 * np.asarray(x, np.float64) @ modes.T
    return np.bincount(distances.argmin(1), minlength=len(modes)) / len(x)


def mode_distance(x: Num[np.ndarray, "n d"], y: Num[np.ndarray, "m d"], modes: Num[np.ndarray, "k d"]) -> float:
    """Half of sum_k |share of x at mode k - share of y at mode k|: the probability that is at the wrong mode, 0 to 1.

    x: (n, d), y: (m, d). modes: (k, d).
    """
    return float(np.abs(mode_weights(x, modes) - mode_weights(y, modes)).sum() / 2)


def highest_density_coverage(
    log_density: Num[np.ndarray, " n"], reference: Num[np.ndarray, " m"], mass: float = 0.9
) -> float:
    """Return the share of points in the smallest set that holds `mass` of the law: where the density is highest ([HDR]).

    log_density: (n,), the law's log density at the points.
    reference: (m,), that at draws of the law, whose 1 - mass quantile is the border of the set.
    mass: between 0 and 1, the coverage of points that follow the law. Points that crowd at the modes have more, points that
        spread too far less. With `log_density` at the truth and `reference` at a method's samples, the mean over problems
        is the share of problems in which the truth lies in the method's own set of this mass.

    >>> x = np.random.default_rng(0).normal(size=(2, 100_000))
    >>> [round(highest_density_coverage(-np.square(scale * x[0]), -np.square(x[1])), 1) for scale in (1.0, 2.0, 0.5)]
    [0.9, 0.6, 1.0]
    """
    return float((np.asarray(log_density) >= np.quantile(reference, 1 - mass)).mean())


def noise_floor(
    measure: Callable[[np.ndarray, np.ndarray], float], draws: Sequence[np.ndarray] | np.ndarray
) -> MeanStd:
    """Return mean and standard deviation of `measure` between draws of the exact law: what no method can be below.

    measure: (points, points) -> number, such as `sliced_wasserstein`.
    draws: an even number of independent sets, each as large as the samples to be measured; they are paired, 1 with 2, 3
        with 4.
    ValueError for an odd number of sets, or none.

    >>> draws = np.random.default_rng(0).normal(size=(20, 500, 2))
    >>> noise_floor(sliced_wasserstein, draws).mean < 0.1
    True
    """
    if len(draws) % 2 or not len(draws):
        raise ValueError(f"there are {len(draws)} sets of draws; give an even number, to be paired")
    return MeanStd.of([measure(one, other) for one, other in zip(draws[::2], draws[1::2], strict=True)])
