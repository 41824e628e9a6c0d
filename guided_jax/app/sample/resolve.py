"""From a request, which is words and numbers, to a recipe, which is functions: resolved once, before anything is drawn."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from guided_jax import guidance, reverse, stateful
from guided_jax.app import run as runs
from guided_jax.app.sample import gibbs, guidances, inverse, samplers
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method, Variance
from guided_jax.app.sample.row import Guided
from guided_jax.denoiser import Denoiser
from guided_jax.particles import Potential
from guided_jax.sampler import gibbs_like
from guided_jax.schedule import NoiseLevel


class Recipe(NamedTuple):
    """How every example is drawn.

    guide: parts of an example -> its guided denoiser. step: parts -> the reverse step, which calls no network of its own.
    levels: the levels that a run visits. clips_inside: whether the network's own predictions are clipped. clip: what
    clips the guided denoiser, None for nothing. start_std: the standard deviation of x_T; None for sigma of the last level.
    from_noise: whether a run starts from noise though it is given a picture. target: with --particles, parts -> (unguided
    denoiser, potential), in the place of the guide and the clip. again: (parts, key, x_0) -> x_0, after the run; None for
    nothing.
    """

    guide: Callable[[Parts], Guided]
    step: Callable[[Parts], reverse.ReverseStep]
    levels: NoiseLevel
    clips_inside: bool
    clip: Callable[[Denoiser], Denoiser] | None = None
    start_std: float | None = None
    from_noise: bool = False
    target: Callable[[Parts], tuple[Denoiser, Potential]] | None = None
    again: Callable[..., Array] | None = None


def resolve(request: Method, run: runs.Run) -> Recipe:
    """Return the recipe of a request to a run; ValueError for names, steps or a variance that the run does not have."""
    request = dataclasses.replace(request, variance=variance_of(run, request.variance))
    row, sampler = guidances.row_of(request), samplers.make_step(request, run.model.levels, run.scheduler)
    clips = request.clip and run.bounded
    clips_inside = clips and (row.clips_inside or request.clip_base)
    levels = samplers.levels_of(request, run.model.levels, run.scheduler)
    clip: Callable[[Denoiser], Denoiser] | None = None
    if clips and not clips_inside and not row.clips_step:
        clip = functools.partial(guidance.clip, low=-run.bound, high=run.bound)
        if guidances.is_dynamic(request):
            clip = functools.partial(guidance.dynamic_threshold, limit=run.bound)

    def guide(parts: Parts) -> Guided:
        guided = parts.base if guidances.shifts_mean(request) else guidances.guide(request, parts)
        # Guided first, then clipped, unlike [ADM]'s code: where alpha is 5e-5 a learned classifier's gradient, which is
        # not quite 0 there, shifts x_0 by thousands, and a few steps of ddim never come back from that.
        if clip is None:
            return guided
        return stateful.lift(clip, guided) if isinstance(guided, stateful.Stateful) else clip(guided)

    def step(parts: Parts) -> reverse.ReverseStep:
        if guidances.shifts_mean(request):
            return reverse.classifier_ddpm(parts.log_prob, parts.scale, request.at, request.variance or "small")
        if row.step is None:
            return sampler
        return row.step(guidances.scaled(request, parts)._replace(levels=levels), sampler)

    def again(parts: Parts, key: Array, x_0: Array) -> Array:
        assert row.again is not None
        denoise, below = row.again(parts), gibbs.levels_of(request, run.model.levels)
        denoise = denoise if clip is None else clip(denoise)
        return gibbs_like(key, denoise, sampler, x_0, below, request.measurement.repeats)

    std = samplers.start_std(request, run.scheduler)
    from_noise = inverse.paints(request) and samplers.strength_of(request) == 1
    target = None if request.particles is None or row.target is None else row.target.make
    return Recipe(guide, step, levels, clips_inside, clip, std, from_noise, target, row.again and again)


def variance_of(run: runs.Run, requested: Variance | None) -> Variance:
    """Return the step variance that a request names, else "learned" for a network that learned one, else "small".

    Raises ValueError for a learned one of a network that learned none.
    """
    learned = run.model.learned_variance
    if requested == "learned" and not learned:
        raise ValueError("this run's network did not learn a variance; use --variance small or large")
    return requested or ("learned" if learned else "small")
