"""The losses of the networks that draw samples: the library's, composed as the settings say."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from guided_jax import losses, training
from guided_jax.app import networks, texts, trained_model
from guided_jax.app import run as runs
from guided_jax.app.train import distill
from guided_jax.app.train.held_out import Loss
from guided_jax.losses import times
from guided_jax.parallel.replicated import AXIS
from guided_jax.storage import images


def by_quarter(name: str, values: Any, level: Any, num_steps: int) -> dict[str, training.Part]:
    """Return the means of values (B,) in each quarter of the steps 1..T: name_q1 nearly clean, name_q4 nearly noise."""
    quarter = jnp.ceil(4 * level.t / num_steps)
    return {f"{name}_q{q}": training.part(values, quarter == q) for q in (1, 2, 3, 4)}


def diffusion_loss(run: runs.Run, plain: bool = False) -> Loss:
    """Return the denoising loss, with the label dropped as classifier-free guidance needs it.

    With `distill_from` the truth is what that run predicts with guidance, at scales that the network is told. plain:
    without dropout, weighting and law of times, so that runs of one parameterization can be compared.
    """
    settings, model = run.experiment.diffusion, run.model
    network = trained_model.make_training_network(settings, run.networks.diffusion, dropout=not plain)
    target, stratified = settings.parameterization, settings.times.stratified and not plain
    weight = None if plain else settings.weighting.make(model.levels, target)
    law = None if plain else settings.times.make()
    teacher = distill.make_teacher(run) if settings.distill_from else None

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        low_res = images.shrink(batch["image"], run.low_res) if run.low_res else None

        def call(estimate: Any) -> Callable[..., list[Any]]:
            return lambda x, t, label, keys: network(params, x, t, label, low_res, estimate, keys)

        def compare(output: Any) -> Any:
            return losses.denoising(
                lambda *_: output,
                noisy,
                None,
                model.levels,
                target,
                model.time,
                learned_variance=model.learned_variance,
                weight=weight,
            )

        raw = batch["label"] if run.conditional else None
        if model.null is not None:
            null = jnp.asarray(model.null, batch["label"].dtype)
            raw = losses.drop(keys, raw, null, settings.label_dropout)
        label: Any = raw if raw is None else model.condition(params, raw)
        strata = times.Strata(batch["index"], settings.batch_size) if stratified else None
        noisy = losses.corrupt(keys, batch["image"], model.levels, law, strata)
        if teacher is not None:
            scale = losses.draw_scales(keys, *settings.distill_scales)
            label, noisy = label._replace(scale=scale), losses.teach(noisy, teacher, raw, scale)
        estimate = None
        if run.self_conditioning:
            first = lambda *given: call(None)(*given)[0]  # noqa: E731
            estimate = losses.first_estimate(first, keys, noisy, label, target, model.time)
        outputs = call(estimate)(noisy.x_t, model.time(noisy.level), label, noisy.keys)
        each, *internal = map(compare, outputs)
        metrics = by_quarter("loss", each, noisy.level, model.levels.t.size - 1)
        if not internal:
            return each.mean(), metrics
        inner = internal[0].mean()
        return each.mean() + settings.internal_weight * inner, {**metrics, "internal_loss": inner}

    return loss


def classifier_loss(run: runs.Run, plain: bool = False) -> Loss:
    """Return the loss of the noisy classifier, of captions that of a CLIP, with its accuracy. plain: without dropout."""
    classifier = trained_model.make_training_classifier(
        run.experiment.classifier, run.networks.classifier, dropout=not plain
    )
    compare = _contrast(run, classifier, plain) if run.facts.labelling == "text" else _classify(run, classifier)

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        levels = run.model.levels
        each, right = compare(params, keys, batch)
        level, last = losses.corrupt(keys, batch["image"], levels).level, levels.t.size - 1
        quarters = {**by_quarter("loss", each, level, last), **by_quarter("accuracy", right, level, last)}
        return each.mean(), {"accuracy": right.mean(), **quarters}

    return loss


def _classify(run: runs.Run, classifier: Callable[..., Any]) -> Callable[..., Any]:
    def compare(params: Any, keys: Any, batch: Any) -> tuple[Any, Any]:
        network = lambda x, t, keys: classifier(params, x, t, keys)  # noqa: E731
        return losses.classification(network, keys, batch["image"], batch["label"], run.model.levels, run.model.time)

    return compare


def _contrast(run: runs.Run, classifier: Callable[..., Any], plain: bool) -> Callable[..., Any]:
    """Return the comparison of noisy pictures with the captions of the whole batch, on all devices."""
    clip, own = run.networks.classifier, networks.texts_of(run.experiment, run.facts)
    # Held-out data, and a batch that jit divides, are whole where they are compared.
    axis = None if plain or run.experiment.shard_parameters else AXIS

    def compare(params: Any, keys: Any, batch: Any) -> tuple[Any, Any]:
        network = lambda x, t, keys: classifier(params, x, t, keys)  # noqa: E731
        text = clip.apply(params, *texts.states_of(own, batch["label"]), method="encode_text")
        temperature = clip.apply(params, method="temperature")
        levels, time = run.model.levels, run.model.time
        return losses.contrastive.noised(
            network, keys, batch["image"], text, batch["caption"], temperature, levels, time, axis
        )

    return compare


LOSSES: Mapping[str, Callable[..., Loss]] = {"diffusion": diffusion_loss, "classifier": classifier_loss}


def with_indices(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the train step with batch["index"], the position in the whole batch, which stratified times need."""

    def call(state: Any, batch: Any, indices: Any, **options: Any) -> Any:
        return step(state, {**batch, "index": indices}, indices, **options)

    return call
