"""What the networks of a run are trained on: the losses of the library, put together by the settings."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from guided_jax import losses, training
from guided_jax.app import pixel_model
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.losses import times
from guided_jax.storage import images
from guided_jax.training import averaging

Loss = Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]  # (params, keys, batch) -> (mean loss, metrics)


def by_quarter(name: str, values: Any, level: Any, num_steps: int) -> dict[str, training.Part]:
    """The mean of values (B,) in each quarter of the steps 1..T: name_q1, nearly clean, to name_q4, nearly noise."""
    quarter = jnp.ceil(4 * level.t / num_steps)
    return {f"{name}_q{q}": training.part(values, quarter == q) for q in (1, 2, 3, 4)}


def diffusion_loss(run: runs.Run, plain: bool = False) -> Loss:
    """Denoising with the label dropped at times: what classifier-free guidance needs.

    plain: nothing in the network is dropped, and every level counts the same, whatever the network was trained on: one
    number to compare runs of a parameterization by.
    """
    settings = run.experiment.diffusion
    unet = run.networks.unet.clone(remat=settings.remat, remat_keep=settings.remat_keep)
    dropout = bool(settings.network.dropout) and not plain
    target, stratified = settings.parameterization, settings.times.stratified and not plain
    weight = None if plain else settings.weighting.make(run.model.levels, target)
    law = None if plain else settings.times.make()

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        low_res = images.shrink(batch["image"], settings.low_res) if settings.low_res else None

        def network(estimate: Any) -> Any:
            def call(x: Any, t: Any, label: Any, keys: Any) -> Any:
                shown = pixel_model.with_estimate(settings, x, estimate)
                return unet.apply(params, shown, t, label, low_res, dropout_keys=keys if dropout else None)

            return call

        label = batch["label"] if settings.conditional else None
        if settings.null_label:
            label = losses.drop(keys, label, jnp.int32(run.model.null), settings.label_dropout)
        strata = times.Strata(batch["index"], settings.batch_size) if stratified else None
        noisy = losses.corrupt(keys, batch["image"], run.model.levels, law, strata)
        estimate = None
        if settings.self_conditioning:
            estimate = losses.first_estimate(network(None), keys, noisy, label, target)
        each = losses.denoising(
            network(estimate),
            noisy,
            label,
            run.model.levels,
            target,
            learned_variance=settings.learned_variance,
            weight=weight,
        )
        return each.mean(), by_quarter("loss", each, noisy.level, run.model.levels.t.size - 1)

    return loss


def classifier_loss(run: runs.Run, plain: bool = False) -> Loss:
    """Cross-entropy of the noisy classifier, and how often it is right; plain: nothing in the network is dropped."""
    settings = run.experiment.classifier
    classifier = run.networks.classifier.clone(remat=settings.remat, remat_keep=settings.remat_keep)
    dropout = bool(settings.network.dropout) and not plain

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        def network(x: Any, t: Any, keys: Any) -> Any:
            return classifier.apply(params, x, t, dropout_keys=keys if dropout else None)

        each, right = losses.classification(network, keys, batch["image"], batch["label"], run.model.levels)
        level, last = losses.corrupt(keys, batch["image"], run.model.levels).level, run.model.levels.t.size - 1
        quarters = {**by_quarter("loss", each, level, last), **by_quarter("accuracy", right, level, last)}
        return each.mean(), {"accuracy": right.mean(), **quarters}

    return loss


LOSSES: Mapping[str, Callable[..., Loss]] = {"diffusion": diffusion_loss, "classifier": classifier_loss}


def numbered(step: Callable, settings: Any) -> Callable:
    """The train step, with each example's index in the whole batch told to the loss where its strata need it."""
    if not (isinstance(settings, schema.Diffusion) and settings.times.stratified):
        return step

    def call(state: Any, batch: Any, indices: Any, **options: Any) -> Any:
        return step(state, {**batch, "index": indices}, indices, **options)

    return call


POSITIVE = ("weighting.min_snr_gamma", "weighting.p2_k", "weighting.sigma_data", "times.std")
FINITE = ("weighting.p2_gamma", "weighting.sigmoid_bias", "times.mean")


def check(experiment: schema.Experiment) -> None:
    """Settings of the objective that cannot be, each in one sentence."""
    diffusion = experiment.diffusion
    for names, low, words in ((POSITIVE, 0.0, "a finite number above 0"), (FINITE, -math.inf, "a finite number")):
        for name in names:
            section, field = name.split(".")
            value = getattr(getattr(diffusion, section), field)
            if not low < value < math.inf:
                raise ValueError(f"--diffusion.{name.replace('_', '-')} is {value}; give {words}")
    for sigma_rel in diffusion.power_ema:
        try:
            averaging.exponent(sigma_rel)
        except ValueError as error:
            raise ValueError(f"--diffusion.power-ema: {error}") from None
    if len(set(diffusion.power_ema)) < len(diffusion.power_ema):
        raise ValueError(f"--diffusion.power-ema is {diffusion.power_ema}; give each length once")
    if not diffusion.num_steps or diffusion.parameterization != "eps":
        return
    if experiment.schedule.zero_terminal_snr:
        raise ValueError(
            "--diffusion.parameterization is eps, which says nothing of x_0 at the end of --schedule.zero-terminal-snr; "
            "use v or x_0"
        )
    if diffusion.weighting.name == "edm":
        raise ValueError(
            "--diffusion.weighting.name edm grows without bound towards noise on the loss of an eps network; "
            "use --diffusion.parameterization v"
        )
