"""The two networks of a run as training tasks: "diffusion" and "classifier"."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from guided_jax import data, training
from guided_jax.app import pixel_model
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.train import init_from, job, objective

PARTS = runs.PARTS
Sources = Callable[[bool], data.Source]  # held_out -> the data to train with, or the held-out data


def trained_parts(experiment: schema.Experiment) -> list[str]:
    """Return the networks that an experiment trains."""
    return [part for part in PARTS if getattr(experiment, part).num_steps]


def make_task(run: runs.Run, part: str, sources: Sources) -> job.Task:
    """Return what a network of the run is trained on."""
    experiment, settings = run.experiment, getattr(run.experiment, part)
    return job.Task(
        label=part,
        loss=objective.LOSSES[part](run),
        plain_loss=objective.LOSSES[part](run, plain=True),
        init=functools.partial(init_state, run, part),
        source=sources(False),
        test=sources(True) if settings.eval_every else None,
        seed=experiment.seed,
        flip=experiment.data.flip,
        devices=experiment.devices,
        shard_parameters=experiment.shard_parameters,
        config=schema.to_dict(experiment),
        may_change=schema.MAY_CHANGE,
        given=functools.partial(init_from.load, run, part) if settings.init_from else None,
    )


def init_state(run: runs.Run, part: str, given: Mapping[str, Any] | None = None) -> training.TrainState:
    """Return the state of a network before its first step, a function of the run's seed and the given weights.

    given: by name, as `init_from.load` returns them; those that are not there are random.
    """
    key = jax.random.fold_in(jax.random.key(run.experiment.seed), PARTS.index(part))

    def init_params(key: jax.Array) -> Any:
        return init_from.merge(pixel_model.init(run.experiment, run.facts, run.networks, part, key), given or {})

    return job.init_state(key, init_params, getattr(run.experiment, part).make_optimizer())
