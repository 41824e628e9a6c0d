"""The oracle of the tests: a mixture with exact denoisers, schedules of both kinds, networks of every parameterization."""

import jax
import jax.numpy as jnp

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
            "flow": lambda: exact.eps - exact.x_0,
        }[parameterization]()

    return network


def reparameterized(denoise, parameterization):
    """Return the denoiser as computed from the output of a perfect network of the parameterization."""

    def wrapped(x_t, level):
        return denoiser.from_network(network_of(denoise, parameterization, level), parameterization)(x_t, level)

    return wrapped


def points(key, level, count=16):
    """Draw x_t from the marginal law of the mixture at a level, (count, 2)."""

    def draw(key):
        key_x, key_eps = jax.random.split(key)
        return level.alpha * MIXTURE.sample(key_x) + level.sigma * jax.random.normal(key_eps, (2,))

    return jax.vmap(draw)(jax.random.split(key, count))


def noise_like(levels, key, shape):
    """Draw x_T of a schedule: noise of the last level."""
    return schedule.at(levels, -1).sigma * jax.random.normal(key, shape)
