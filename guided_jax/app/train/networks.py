"""The networks of a run as training tasks: "autoencoder", "diffusion" and "classifier"."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from guided_jax import data, training
from guided_jax.app import networks
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.train import autoencoder, init_from, job, latents, memory, objective
from guided_jax.app.train.held_out import Loss

Sources = Callable[[bool], data.Source]  # held_out -> the data to train with, or the held-out data
STREAMS = {"diffusion": 0, "classifier": 1, "autoencoder": 2}  # of the seed's key: which a network's own key is


def trained_parts(experiment: schema.Experiment) -> list[str]:
    """Return the networks that an experiment trains, in the order in which it does."""
    adopted = ["autoencoder"] if experiment.autoencoder.from_run else []
    return [part for part in schema.TRAINED if getattr(experiment, part).num_steps and part not in adopted]


def make_task(run: runs.Run, part: str, sources: Sources) -> job.Task:
    """Return what a network of the run is trained on."""
    experiment, settings = run.experiment, getattr(run.experiment, part)
    loss, plain_loss = make_losses(run, part)
    return job.Task(
        label=part,
        loss=loss,
        plain_loss=plain_loss,
        init=functools.partial(init_state, run, part),
        source=sources(False),
        test=sources(True) if settings.eval_every else None,
        seed=experiment.seed,
        flip=experiment.data.flip and part in pictures_of(experiment),
        devices=experiment.devices,
        shard_parameters=experiment.shard_parameters,
        shard_group=experiment.shard_group,
        config=schema.to_dict(experiment),
        may_change=schema.MAY_CHANGE,
        given=functools.partial(_given, run, part) if settings.init_from or memory.size(run, part) else None,
    )


def _given(run: runs.Run, part: str, sharding: Any = None) -> dict[str, Any]:
    """Return the weights that are there before the first step, by name; sharding: as of `init_from.load`."""
    taken = init_from.load(run, part, sharding) if getattr(run.experiment, part).init_from else {}
    return {**taken, **(memory.weights(run) if memory.size(run, part) else {})}


def pictures_of(experiment: schema.Experiment) -> list[str]:
    """Return the networks that are trained on pictures, and not on their latents."""
    return ["autoencoder"] if experiment.latent else list(schema.PARTS)


def make_losses(run: runs.Run, part: str) -> tuple[Loss, Loss]:
    """Return the loss of a network, and that on held-out data, without augmentation, dropout and weighting."""
    if part == "autoencoder":
        loss = autoencoder.make_loss(run)
        return loss, loss
    both = objective.LOSSES[part](run), objective.LOSSES[part](run, plain=True)
    if part in pictures_of(run.experiment):
        return both
    return latents.of_posterior(both[0]), latents.of_posterior(both[1])


def init_state(run: runs.Run, part: str, given: Mapping[str, Any] | None = None) -> training.TrainState:
    """Return the state of a network before its first step, a function of the run's seed and the given weights.

    given: by name, as `init_from.load` returns them; those that are not there are random.
    """
    key = jax.random.fold_in(jax.random.key(run.experiment.seed), STREAMS[part])

    def init_params(key: jax.Array) -> Any:
        return init_from.merge(networks.init(run.experiment, run.facts, run.networks, part, key), given or {})

    return job.init_state(key, init_params, getattr(run.experiment, part).make_optimizer())
