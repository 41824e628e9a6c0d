"""The laws that `guided-jax sample --particles` draws, as potentials of the parts of an example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax import guidance, particles, schedule
from guided_jax.app.sample import clip_guide
from guided_jax.app.sample.parts import Parts
from guided_jax.denoiser import Denoiser
from guided_jax.numerics import LOG_TWO_PI
from guided_jax.particles import Potential
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb


class Target(NamedTuple):
    """A law that particles draw.

    line: the law, for --list. make: parts -> (the unguided denoiser, the potential). scaled: whether the law has --scale.
    """

    line: str
    make: Callable[[Parts], tuple[Denoiser, Potential]]
    scaled: bool = True


def corrected(parts: Parts) -> tuple[Denoiser, Potential]:
    """Return the law that classifier-free guidance names: powers of the model with and without the label."""
    u, c = (bounded(parts, denoise) for denoise in (parts.unconditional, parts.conditional))
    return u, particles.corrected(u, c, parts.scale)


def classified(parts: Parts) -> tuple[Denoiser, Potential]:
    """Return the model times p(label | x)^scale, by the noisy classifier."""
    return bounded(parts, parts.base), particles.classifier(parts.log_prob, parts.scale, parts.clean_log_prob)


def twisted(parts: Parts) -> tuple[Denoiser, Potential]:
    """Return the model times exp(scale criterion), by the criterion's gradient through the network."""
    return bounded(parts, parts.clean_base), particles.twisted(_scaled(parts, parts.clean_log_prob))


def by_clip(parts: Parts) -> tuple[Denoiser, Potential]:
    """Return the model times exp(scale likeness to the texts), by its gradient."""
    return bounded(parts, parts.plain_base), particles.twisted(_scaled(parts, clip_guide.criterion(parts)))


def rewarded(parts: Parts) -> tuple[Denoiser, Potential]:
    """Return the model times exp(scale criterion), by resampling alone."""
    log_prob, clean = parts.clean_log_prob, schedule.at(parts.run.model.levels, 0)
    return bounded(parts, parts.clean_base), particles.reward(lambda x_0: log_prob(x_0, clean), parts.scale)


def measured(parts: Parts) -> tuple[Denoiser, Potential]:
    """Return the posterior given the measurement, whose hidden pixels are none of it."""
    noise_std, settings = parts.request.measurement.noise_std, parts.request.measurement
    operator, y, whole = parts.measurement, parts.y, parts.measurement.forward
    hidden: Any = 0
    if (
        settings.operator == "mask" and settings.mask
    ):  # other pixels for each example: all are measured, hidden ones as 0
        assert parts.operator is not None
        hidden = jnp.sum(1 - parts.operator.forward(jnp.ones_like(y)))
    elif parts.places is not None:
        y = y.reshape(-1)[parts.places]
        operator = operator._replace(forward=lambda x: whole(x).reshape(-1)[parts.places])
    seen = particles.measurement(operator, y, noise_std)
    constant = hidden * (jnp.log(noise_std) + LOG_TWO_PI / 2)
    potential = seen._replace(log_end=lambda x_0, level: seen.log_end(x_0, level) + constant)
    return bounded(parts, parts.plain()), potential


def bounded(parts: Parts, denoise: Denoiser) -> Denoiser:
    """Return the denoiser with x_0 clipped to the range of pixels, and the derivative of the unclipped one.

    The derivative of a clipped pixel would be 0: no gradient would move it, and its variance given x_t would be 0.
    """
    if not (parts.request.clip and parts.run.bounded):
        return denoise
    bound = parts.run.bound

    def within(x_t: Any, level: NoiseLevel) -> Prediction:
        own = denoise(x_t, level)
        clipped = guidance.clip(lambda x, at: own, -bound, bound)(x_t, level)
        return jax.tree.map(_as, clipped, own)

    return within


def _as(value: Any, other: Any) -> Any:
    """Return the value, with the derivative of the other."""
    return jax.lax.stop_gradient(value) + (other - jax.lax.stop_gradient(other))


def _scaled(parts: Parts, log_prob: LogProb) -> LogProb:
    return lambda x_0, level: parts.scale * log_prob(x_0, level)
