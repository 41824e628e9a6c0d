"""Training-free guidance by the options of a request: around the step of any sampler."""

from typing import Any

from guided_jax import reverse
from guided_jax.app.sample.parts import Parts
from guided_jax.numerics import is_zero

ITERATIONS = 4  # without --iterations
STRENGTHS = "strengths"  # of the params: rho, mu and smoothing in the place of those of the request, traced


def make_step(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    """Return the step, guided by the criterion of one example; it clips x_0 itself, and lets the gradient through."""
    request, run, settings = parts.request, parts.run, parts.request.training_free
    rho, mu, smoothing = parts.params.get(STRENGTHS, (settings.rho, settings.mu, settings.smoothing))
    clips = request.clip and run.bounded and not request.clip_base
    return reverse.training_free(
        step,
        parts.clean_log_prob,
        _times(parts.scale, rho),
        _times(parts.scale, mu),
        smoothing,
        settings.smoothing_samples,
        request.measurement.iterations or ITERATIONS,
        settings.recurrence,
        levels=parts.levels,
        weights=settings.weights,
        clip=(-run.bound, run.bound) if clips else None,
    )


def _times(scale: Any, strength: Any) -> Any:
    """Return scale strength, the number 0 for the strength 0, which leaves a backward pass out."""
    if is_zero(strength):
        return 0.0
    return (lambda level: scale(level) * strength) if callable(scale) else scale * strength
