"""The kernel distance between two sets of features.

Sources: [KID] Bińkowski et al. 1801.01401; [MMD] Gretton et al., "A Kernel Two-Sample Test", JMLR 2012."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num

from guided_jax.metrics.summary import MeanStd

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """k(x, y) = (x y / d + 1)^3 ([KID])."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def normal_kernel(width: float) -> Kernel:
    """Return k(x, y) = exp(-|x - y|^2 / (2 width^2)), which tells all laws apart ([MMD] theorem 5).

    width: in the units of the points, about the distance between two of them.

    >>> normal_kernel(1.0)(np.zeros((1, 2)), np.array([[3.0, 4.0]])) == np.exp(-12.5)
    array([[ True]])
    """

    def kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T
        return np.exp(-np.maximum(squares, 0) / (2 * width**2))

    return kernel


def mmd_squared(x: Num[np.ndarray, "n d"], y: Num[np.ndarray, "m d"], kernel: Kernel = kernel) -> float:
    """mean k(x, x') + mean k(y, y') - 2 mean k(x, y), no point paired with itself: an unbiased estimate of MMD^2.

    x: (n, d), y: (m, d). kernel: that of [KID], or `normal_kernel`. Its expectation is 0 for equal distributions, so it is
    at times negative ([MMD] eq. 3).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(_off_diagonal(kernel(x, x)) + _off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean())


def _off_diagonal(gram):
    count = len(gram)
    return (gram.sum() - np.trace(gram)) / (count * (count - 1))


def kernel_distance(
    reference: Num[np.ndarray, "n d"],
    samples: Num[np.ndarray, "m d"],
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> MeanStd:
    """Return KID: mean and standard deviation of `mmd_squared` over random subsets of `subset_size` points of each set.

    reference: (n, d), samples: (m, d). A subset is drawn without replacement, and subsets overlap: the deviation is that of
    one subset, not of the mean. ValueError for subsets larger than a set, or of fewer than two points.

    >>> kernel_distance(np.zeros((20, 1)), np.ones((20, 1)), subsets=3, subset_size=10)  # 1 + 8 - 2
    MeanStd(mean=7.0, std=0.0)
    """
    smaller = min(len(reference), len(samples))
    if not 2 <= subset_size <= smaller or subsets < 1:
        raise ValueError(f"{subsets} subsets of {subset_size} cannot be drawn from {smaller} pictures")
    generator = np.random.default_rng(seed)

    def draw(points):
        return points[generator.choice(len(points), subset_size, replace=False)]

    return MeanStd.of([mmd_squared(draw(reference), draw(samples)) for _ in range(subsets)])
