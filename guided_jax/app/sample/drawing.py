"""What draws the pictures of a run: one at a time, a pure function, and many, on all devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import denoiser, guidance, models, parallel, reverse, sampler, schedule
from guided_jax.app import run as runs
from guided_jax.app.sample import diagnostics, samplers
from guided_jax.app.sample import guidances as methods
from guided_jax.app.sample import inverse as measurement
from guided_jax.app.sample.request import Method
from guided_jax.storage import images

Draw = Callable[..., Any]  # (params, key, label, scale, seen=None, low_res=None) -> image


class Shared(NamedTuple):
    """What all pictures have in common."""

    run: runs.Run
    method: Method
    labelled: bool  # whether the label counts when there is no guidance
    bad: runs.Run  # that of --bad, or the run itself
    operator: Any  # of the measurement, where there is one
    variance: runs.Variance
    plain: reverse.ReverseStep  # of the sampler, not guided

    @property
    def clips_inside(self) -> bool:
        """Whether x_0 is clipped before the guidance, as ADM's code does."""
        return self.method.clip and (self.method.row.clips_inside or self.method.clip_base)

    @property
    def self_conditioning(self) -> bool:
        """Whether the run's network or that of --bad takes its last x_0."""
        return any(run.experiment.diffusion.self_conditioning for run in (self.run, self.bad))


class Example(NamedTuple):
    """What one picture is made from; key is for methods that draw."""

    params: Any
    key: Any
    label: Any
    scale: Any
    seen: Any
    low_res: Any


def shared_by(run: runs.Run, method: Method, labelled: bool) -> Shared:
    """Loads what the method names, and makes its step."""
    operator = (
        measurement.operator_of(method.measurement, run.facts.image_shape)
        if "measurement" in method.row.needs
        else None
    )
    variance = runs.variance_of(run, method.variance)
    method = dataclasses.replace(method, variance=variance)
    plain = samplers.row(method).make(method, run.levels)
    return Shared(run, method, labelled, runs.load(method.bad) if method.bad else run, operator, variance, plain)


def prepared(run: runs.Run, bad: runs.Run, params: Any) -> Any:
    """The params of each network as it computes with them, made before a drawing's steps, and not at each of them."""
    found = {}
    for name, weights in params.items():
        of, part = bad if name == "bad" else run, "classifier" if name == "classifier" else "diffusion"
        network = of.classifier if part == "classifier" else of.unet
        found[name] = models.prepare_params(network, weights, *runs.example(of, part))
    return found


def parts_of(shared: Shared, one: Example, estimate: Any = None) -> methods.Parts:
    """What the run offers to a guidance, its networks told their last x_0 if they take any."""
    run, method, params = shared.run, shared.method, one.params
    null = run.facts.num_classes if run.experiment.diffusion.null_label else None

    def logits(x: Any, level: schedule.NoiseLevel) -> Any:
        return run.classifier.apply(params["classifier"], x, denoiser.network_time(level))

    def model(y: Any, perturb: Any = None) -> denoiser.Denoiser:
        unet = run.unet if perturb is None else run.unet.clone(perturb=perturb)
        found = runs.denoiser_of(run, unet, params["diffusion"], y, one.low_res, estimate)
        return guidance.clip(found) if shared.clips_inside else found

    wanted, sureness = jnp.asarray(method.any_of) if method.any_of else one.label, 1 / method.temperature
    return methods.Parts(
        model=model,
        # The label itself where the network has no null label: then the scale counts from the conditional model.
        base=model(one.label if null is None else null),
        bad=lambda y: runs.denoiser_of(shared.bad, shared.bad.unet, params["bad"], y, None, estimate),
        log_prob=guidance.from_logits(logits, wanted, joint=sureness, marginal=sureness),
        label=one.label,
        null=null,
        labelled=shared.labelled,
        scale=one.scale,
        key=one.key,
        num_classes=run.facts.num_classes,
        num_steps=run.levels.t[-1],
        knobs=method,
        operator=shared.operator,
        seen=one.seen,
    )


def guided_by(shared: Shared, parts: methods.Parts) -> tuple[Any, reverse.ReverseStep]:
    """(the guided denoiser, the step); the step asks no network of its own."""
    method = shared.method
    if method.shifts_mean:
        guided, step = parts.base, reverse.classifier_ddpm(parts.log_prob, parts.scale, method.at, shared.variance)
    else:
        guided, step = methods.build(method.guidance, parts, shared.plain)
    # Guided first, then clipped, unlike [ADM]'s code: where alpha is 5e-5 a learned classifier's gradient, which is
    # not quite 0 there, shifts x_0 by thousands, and a few steps of ddim never come back from that.
    if method.clip and not shared.clips_inside:
        guided = methods.upon(guided, guidance.dynamic_threshold if method.dynamic else guidance.clip)
    return guided, step


def drawing(run: runs.Run, method: Method, labelled: bool, diagnose: bool = False) -> Draw:
    """(params, key, label, scale, seen, low_res) -> one image (H, W, C) in [-1, 1].

    params has "diffusion" and perhaps "classifier" and "bad". seen: the measurement of this example, for the guidances by
    one. low_res: what an upsampler starts from. labelled: whether the label counts when there is no guidance. With
    `diagnose` (image, observations) is returned.
    """
    shared, levels = shared_by(run, method, labelled), samplers.levels_of(method, run.levels)

    def draw(params: Any, key: Any, label: Any, scale: Any, seen: Any = None, low_res: Any = None) -> Any:
        key_noise, key_run, key_method = jax.random.split(key, 3)
        params = prepared(run, shared.bad, params)
        parts = functools.partial(parts_of, shared, Example(params, key_method, label, scale, seen, low_res))
        guided, step = guided_by(shared, parts())
        if shared.self_conditioning:
            guided = guidance.self_conditioned(lambda estimate: guided_by(shared, parts(estimate))[0])
        if isinstance(guided, guidance.Stateful):
            step, guided = reverse.with_state(guided, step), guidance.first_state(guided)
        x_T = schedule.at(levels, -1).sigma * jax.random.normal(key_noise, run.facts.image_shape)
        judged = "classifier" in params and (labelled or method.row.labelled)
        observe = diagnostics.observer(parts(), shared.method, judged) if diagnose else None
        return sampler.sample(key_run, guided, step, x_T, levels, observe)

    return draw


def any_drawer(
    run: runs.Run, method: Method, labelled: bool, devices: list, diagnose: bool = False, sharded: bool = False
) -> Callable[..., Any]:
    """(params, indices, labels, scales, seed, seen, low_res) -> uint8 images: `drawing`, compiled once for a chunk.

    The params have to be on the devices. With `diagnose` (uint8 images, observations). sharded: every device has a part of
    the params, as `part_of` says.
    """
    drawn = drawing(run, method, labelled, diagnose)
    mapped = parallel.sharded_map if sharded else parallel.parallel_map
    compiled = mapped(drawn, devices, in_axes=(None, 0, 0, 0, 0, 0))

    def call(
        params: Any,
        indices: np.ndarray,
        labels: np.ndarray,
        scales: np.ndarray,
        seed: int,
        seen: Any = None,
        low_res: Any = None,
    ) -> Any:
        keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 0), indices)
        found = compiled(params, keys, labels.astype(np.int32), scales.astype(np.float32), seen, low_res)
        return (images.to_uint8(found[0]), found[1]) if diagnose else images.to_uint8(found)

    return call


def drawer(
    run: runs.Run,
    method: Method,
    params: Any,
    labelled: bool,
    devices: list,
    diagnose: bool = False,
    sharded: bool = False,
) -> Callable[..., Any]:
    """(indices, labels, scales, seed, seen, low_res) -> uint8 images: `any_drawer` with these params."""
    if not sharded:
        bad = runs.load(method.bad) if method.bad else run
        params = parallel.place(jax.jit(functools.partial(prepared, run, bad))(params), devices)
    return functools.partial(any_drawer(run, method, labelled, devices, diagnose, sharded), params)
