"""The losses of the networks that draw samples: the library's, composed as the settings say."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from guided_jax import losses, training
from guided_jax.app import networks, texts, trained_model
from guided_jax.app import run as runs
from guided_jax.app.settings import Diffusion
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

    plain: without dropout, weighting and law of times, so that runs of one parameterization can be compared.
    """
    settings = run.experiment.diffusion
    module = run.networks.diffusion
    network = trained_model.make_training_network(settings, module, dropout=not plain)
    inner = None if plain else _make_internal(settings, module)
    target, stratified = settings.parameterization, settings.times.stratified and not plain
    weight = None if plain else settings.weighting.make(run.model.levels, target)
    law = None if plain else settings.times.make()

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        low_res = images.shrink(batch["image"], run.low_res) if run.low_res else None

        def call(estimate: Any, network: Any = network) -> Any:
            return lambda x, t, label, keys: network(params, x, t, label, low_res, estimate, keys)

        def compare(network: Any) -> Any:
            return losses.denoising(
                call(estimate, network),
                noisy,
                label,
                run.model.levels,
                target,
                run.model.time,
                learned_variance=run.model.learned_variance,
                weight=weight,
            )

        label = batch["label"] if run.conditional else None
        if run.model.null is not None:
            null = jnp.asarray(run.model.null, batch["label"].dtype)
            label = losses.drop(keys, label, null, settings.label_dropout)
        label = label if label is None else run.model.condition(params, label)
        strata = times.Strata(batch["index"], settings.batch_size) if stratified else None
        noisy = losses.corrupt(keys, batch["image"], run.model.levels, law, strata)
        estimate = None
        if run.self_conditioning:
            estimate = losses.first_estimate(call(None), keys, noisy, label, target, run.model.time)
        each = compare(network)
        metrics = by_quarter("loss", each, noisy.level, run.model.levels.t.size - 1)
        if inner is None:
            return each.mean(), metrics
        internal = compare(inner).mean()
        return each.mean() + settings.internal_weight * internal, {**metrics, "internal_loss": internal}

    return loss


def _make_internal(settings: Diffusion, module: Any) -> Callable[..., Any] | None:
    """Return the network that ends at its internal head, None for one without such a head."""
    if getattr(module, "internal_head", None) is None:
        return None
    return trained_model.make_training_network(settings, module.clone(exit_block=module.internal_head), dropout=False)


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
