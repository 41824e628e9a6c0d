"""Particles: K examples with one target law, weighed so that the law is exact as K grows, and resampled by their weights.

The one place where examples see one another; `jax.vmap` over problems. A guided sampler draws from a law near the one that
it names; the weights say how near each example is, and their mean is the evidence.
"""

from guided_jax.particles.cloud import Cloud, resample
from guided_jax.particles.measurement import measurement
from guided_jax.particles.potentials import Evaluation, Potential, classifier, corrected, reward, twisted
from guided_jax.particles.run import sample

__all__ = [
    "Cloud",
    "Evaluation",
    "Potential",
    "classifier",
    "corrected",
    "measurement",
    "resample",
    "reward",
    "sample",
    "twisted",
]
