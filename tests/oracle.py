"""The oracle of the tests: a mixture with exact denoisers, schedules of both kinds, networks of every parameterization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import denoiser, prediction, schedule
from guided_jax.analytic import GaussianMixture

# Two classes of two components each, of different weights, places and widths: nothing about it is symmetric.
MIXTURE = GaussianMixture(
    weights=jnp.array([0.35, 0.15, 0.3, 0.2]),
    means=jnp.array([[1.0, 0.4], [-0.6, 0.9], [-1.1, -0.5], [0.5, -1.0]]),
    stds=jnp.array([0.2, 0.35, 0.25, 0.15]),
    labels=jnp.array([0, 0, 1, 1]),
)

SCHEDULES = {
    "linear": schedule.linear(1000),
    "cosine": schedule.cosine(1000),
    "karras": schedule.karras(40, 0.01, 20.0),
}


def network_of(denoise, parameterization, level):
    """Return a perfect network of the parameterization for one level: (x_t, time) -> output."""

    def network(x_t, time):
        exact = denoise(x_t, level)
        return {
            "eps": lambda: exact.eps,
            "x_0": lambda: exact.x_0,
            "v": lambda: prediction.v(exact, level),
            "score": lambda: prediction.score(exact, level),
            "flow": lambda: prediction.flow(exact),
        }[parameterization]()

    return network


def reparameterized(denoise, parameterization):
    """Return the denoiser as computed from the output of a perfect network of the parameterization."""

    def wrapped(x_t, level):
        return denoiser.from_network(network_of(denoise, parameterization, level), parameterization)(x_t, level)

    return wrapped


@functools.partial(jax.jit, static_argnames="count")
def points(key, level, count=16):
    """Draw x_t from the marginal law of the mixture at a level, (count, 2)."""

    def draw(key):
        key_x, key_eps = jax.random.split(key)
        return level.alpha * MIXTURE.sample(key_x) + level.sigma * jax.random.normal(key_eps, (2,))

    return jax.vmap(draw)(jax.random.split(key, count))


def noise_like(levels, key, shape):
    """Draw x_T of a schedule: noise of the last level."""
    return schedule.at(levels, -1).sigma * jax.random.normal(key, shape)


# The law where guidance is a closed form: p = N(0, 2), p(. | c) = N(0, 1). With scale g every flow ends at the variance of
# ODE, every SDE at that of SDE, and neither at the tilted law's 2 / (1 + g).
BROAD, NARROW = (GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([std])) for std in (2**0.5, 1.0))
ODE = lambda g: 2 ** (1 - g)  # noqa: E731
SDE = lambda g: (2 - 2 ** (2 - 2 * g)) / (2 * g - 1)  # noqa: E731


def gibbs_like(g, s):
    """Return the variance at which noise of sigma / alpha = s and the guided flow back from it, in turn, come to rest."""
    shrink = (1 + s**2) ** -g * (2 / (2 + s**2)) ** (1 - g)  # F^2, of x by the flow from s to 0
    return s**2 * shrink / (1 - shrink)


def variance_reached(make, scales, levels, monkeypatch):
    """Compute the variance of samples from N(0, sigma_T^2) for each scale, without drawing any.

    make: scale -> (step, denoise). Each step has to be linear, x_s = a x_t + sum b noise, with at most two noises.
    """

    def moved(scale, now, then, x, *values):
        noises, (step, denoise) = iter(values), make(scale)
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, next(noises, 0.0), dtype))
        return step.step(jax.random.key(0), denoise, x[None], step.init(x[None]), now, then)[0][0]

    # Each step from x = 1 without noise, and from 0 with either noise alone: one batch, whose step is traced once.
    times, count = len(scales), len(levels.t) - 1
    now, then = (
        schedule.NoiseLevel(*(np.tile(column[part], 3 * times) for column in levels))
        for part in (slice(1, None), slice(-1))
    )
    units = np.tile(np.repeat(np.eye(3, dtype=np.float32), count, axis=0), (times, 1))
    found = jax.jit(jax.vmap(moved))(np.repeat(np.float32(scales), 3 * count), now, then, *units.T)
    a, *b = np.asarray(found, np.float64).reshape(times, 3, count).swapaxes(0, 1)
    variance = float(levels.sigma[-1]) ** 2
    for i in reversed(range(count)):
        variance = a[:, i] ** 2 * variance + sum(each[:, i] ** 2 for each in b)
    return variance
