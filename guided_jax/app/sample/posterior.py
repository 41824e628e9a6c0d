"""Guidances by a measurement, by the options of a request."""

from typing import Any

import jax.numpy as jnp

from guided_jax import guidance, reverse
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.row import Guide
from guided_jax.denoiser import Denoiser


def pigdm(parts: Parts) -> tuple[Denoiser, Guide]:
    """Return PiGDM's guidance by the measurement of one example."""
    # The variance of x_0 is that of x; `operators.through` has the share of it that pixels have.
    stds = parts.request.measurement.noise_std, parts.run.data_std if parts.sees_pixels else parts.data_std
    return parts.plain(), lambda d: guidance.pigdm(d, parts.measurement, parts.y, *stds, parts.scale)


def mmps(parts: Parts) -> tuple[Denoiser, Guide]:
    """Return MMPS' guidance by the measurement of one example."""
    settings = parts.request.measurement
    given = settings.noise_std, settings.iterations or 5
    return parts.plain(), lambda d: guidance.mmps(d, parts.measurement, parts.y, *given, parts.scale)


def dps(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step of DPS."""
    return reverse.dps(step, parts.measurement, parts.y, parts.scale)


def ddnm(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step of DDNM, in the place of the sampler's."""
    return reverse.ddnm(parts.measurement, parts.y, parts.request.measurement.noise_std)


def diffpir(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step of DiffPIR, in the place of the sampler's."""
    settings = parts.request.measurement
    given = settings.noise_std, settings.prior_weight, settings.zeta
    return reverse.diffpir(parts.measurement, parts.y, *given)


def daps(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step of DAPS, in the place of the sampler's."""
    settings = parts.request.measurement
    log_prob = guidance.likelihood(parts.measurement, parts.y, settings.noise_std)
    # All operators but an exposure leave a picture as long as it is, or make it shorter.
    gain = settings.exposure if settings.operator == "clipping" else 1.0
    curvature = (gain / settings.noise_std) ** 2
    given = settings.calls or 5, settings.iterations or 100
    return reverse.daps(log_prob, parts.run.model.levels, curvature, *given)


def split_gibbs(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step of the split Gibbs sampler, in the place of the sampler's."""
    settings = parts.request.measurement
    given = settings.noise_std, parts.run.model.levels, settings.calls or 10
    return reverse.split_gibbs(parts.measurement, parts.y, *given)


def pasted(parts: Parts) -> tuple[Denoiser, Guide]:
    """Return the known pixels pasted into each prediction, where pixels are measured; known latents are put into x_s."""
    if not parts.sees_pixels:
        return parts.plain(), lambda d: d
    return parts.plain(), lambda d: guidance.paste(d, _observed(parts), parts.y, parts.encode, parts.decode)


def repaint(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step of RePaint, which pastes nothing where pixels are measured: each prediction is pasted there."""
    repeats = parts.request.measurement.repeats
    if parts.sees_pixels:
        nothing = jnp.zeros(parts.run.model.shape)
        return reverse.repaint(step, nothing, nothing, repeats)
    return reverse.repaint(step, _observed(parts), parts.y, repeats)


def _observed(parts: Parts) -> Any:
    assert parts.operator is not None
    return parts.operator.forward(jnp.ones_like(parts.y))
