"""T2: the laws of the increments of random walks.

Each law is a mixture of normal laws over their variance: given the variances of its increments a walk is normal, and given
its increments the variances are independent. To draw the two in turn is Gibbs sampling: `walks`. Increments that may be 0
have one draw more: `spikes`.

Sources: [Levy] Zach et al. 2509.12821, whose laws these are; for the variance given an increment of Laplace's law [GIG]
Park & Casella, "The Bayesian Lasso", JASA 2008, and [MSH] Michael, Schucany & Haas, The American Statistician 1976.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LENGTH = 64


class Law(NamedTuple):
    """The law of one increment.

    draw: (rng, shape) -> increments.
    variance: (increments, z, e) -> a draw of the variance of each given the increment, of two standard normals z[0], z[1]
        and two uniforms e[0], e[1] in (0, 1) for each; of NumPy's arrays or of JAX's.
    log_density: increments -> log p of each up to a constant; None where an increment may be 0, which has no density.
    noisiest: sigma of the last level, beyond what the walks reach.
    power: of a normal increment, whose walks need no Gibbs sampling; None for another law.
    share: the probability that an increment is not 0. The `variance` of one that is 0 is that which it would have if not.
    """

    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    variance: Callable[[Any, Any, Any], Any]
    log_density: Callable[[np.ndarray], np.ndarray] | None
    noisiest: float
    power: float | None = None
    share: float = 1.0


def normal(power: float, noisiest: float) -> Law:
    """N(0, power)."""
    return Law(
        lambda rng, shape: np.sqrt(power) * rng.standard_normal(shape),
        lambda u, z, e: power + 0 * u,
        lambda u: -np.square(u) / (2 * power),
        noisiest,
        power,
    )


def laplace(scale: float, noisiest: float) -> Law:
    """exp(-|u| / scale) / (2 scale)."""

    def variance(u: Any, z: Any, e: Any) -> Any:
        """1 / variance is inverse Gaussian ([GIG]); itself it is that plus a gamma draw, finite at u = 0 too."""
        xp = u.__array_namespace__()
        mean, chi = scale * abs(u) + 1e-12, scale**2 * xp.square(z[1]) / 2
        large = mean + chi + xp.sqrt(2 * mean * chi + xp.square(chi))  # the larger of the two roots of [MSH]
        small = xp.square(mean) / large
        return xp.where(e[0] * (mean + small) <= mean, small, large) + scale**2 * xp.square(z[0])

    return Law(lambda rng, shape: rng.laplace(0.0, scale, shape), variance, lambda u: -np.abs(u) / scale, noisiest)


def bernoulli_laplace(share: float, scale: float, noisiest: float) -> Law:
    """0, or with the probability `share` a draw of `laplace`."""
    slab = laplace(scale, noisiest)

    def variance(u: Any, z: Any, e: Any) -> Any:
        xp = u.__array_namespace__()
        return xp.where(u == 0, -2 * scale**2 * xp.log(e[1]), slab.variance(u, z, e))

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return slab.draw(rng, shape) * (rng.random(shape) < share)

    return Law(draw, variance, None, noisiest, share=share)


def student(freedom: int, noisiest: float) -> Law:
    """(1 + u^2 / n)^(-(n + 1) / 2), n = freedom: 1, 2 or 3. The variance is (n + u^2) / a chi-square draw of n + 1."""

    def variance(u: Any, z: Any, e: Any) -> Any:
        xp = u.__array_namespace__()
        pair = -2 * xp.log(e[0])  # chi-square of two degrees
        more = {1: 0.0, 2: xp.square(z[0]), 3: -2 * xp.log(e[1])}[freedom]
        return (freedom + xp.square(u)) / (pair + more)

    return Law(
        lambda rng, shape: rng.standard_t(freedom, shape),
        variance,
        lambda u: -(freedom + 1) / 2 * np.log1p(np.square(u) / freedom),
        noisiest,
    )


LAWS = {
    "normal": normal(0.25, 100.0),
    "Laplace": laplace(1.0, 300.0),
    "Bernoulli-Laplace": bernoulli_laplace(0.1, 1.0, 100.0),
    "t, 3": student(3, 300.0),
    "t, 2": student(2, 1000.0),
    "t, 1": student(1, 10000.0),
}
