"""Prepare the training of a network: from its settings and its task to what the training loop needs."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from guided_jax import data, parallel, training
from guided_jax.app import best_checkpoint
from guided_jax.app import settings as schema
from guided_jax.app.train import held_out, objective
from guided_jax.training import loop

Init = Callable[[], training.TrainState]


class Task(NamedTuple):
    """What a network is trained on, whichever it is.

    label: the name of the network. loss: (params, keys, batch) -> (mean loss, metrics). plain_loss: the loss on held-out
    data, without augmentation, dropout and weighting. init: (weights to start from, if any) -> the state before the first
    step. source, test: the data to train with, and the held-out data or None. seed: of the order of the data and of the
    held-out noise. flip: mirror half of the images. devices: how many, None for as many as divide the batch.
    shard_parameters: divide the state over the devices. shard_group: over groups of so many; all if None. config,
    may_change: as in `loop.Job`. given: sharding -> the weights to start from, None for random ones.
    """

    label: str
    loss: held_out.Loss
    plain_loss: held_out.Loss
    init: Callable[..., training.TrainState]
    source: data.Source
    test: data.Source | None
    seed: int
    flip: bool = False
    devices: int | None = None
    shard_parameters: bool = False
    shard_group: int | None = None
    config: Mapping[str, Any] | None = None
    may_change: tuple[str, ...] = ()
    given: Callable[[Any], Any] | None = None


def prepare(task: Task, settings: schema.Training, directory: Path) -> loop.Job:
    """Return the job that trains a network into a directory; callers add their own evaluations and hooks.

    Raises ValueError when the batch does not divide over the devices.
    """
    devices = parallel.choose_devices(settings.batch_size, task.devices)
    init, start = _initial(task, devices)
    batches = data.loader(task.source, settings.batch_size, task.seed, flip=task.flip, share=parallel.share())
    return loop.Job(
        _compile(task, settings, devices),
        init,
        batches,
        settings.num_steps,
        directory,
        config=task.config,
        may_change=task.may_change,
        save_every=settings.checkpoint_every,
        log_every=settings.log_every,
        keep=settings.keep,
        keep_best=settings.keep_best_by if settings.keep_best else None,
        keep_highest=best_checkpoint.highest(settings.keep_best_by),
        evaluations=_evaluations(task, settings),
        steps_per_dispatch=settings.steps_per_dispatch,
        label=task.label,
        start=start,
    )


def _compile(task: Task, settings: schema.Training, devices: list[jax.Device]) -> Callable[..., Any]:
    """Return the compiled step."""
    step: Callable[..., Any] = functools.partial(
        training.train_step,
        loss=parallel.gathered(task.loss, devices, task.shard_group) if task.shard_parameters else task.loss,
        optimizer=settings.make_optimizer(),
        ema_decay=settings.ema_decay,
        microbatches=settings.microbatches,
        learning_rate=settings.optimizer.schedule(settings.num_steps),
    )
    step = objective.with_indices(step)
    if task.shard_parameters:
        return parallel.fully_sharded(step, devices, group=task.shard_group)
    return parallel.data_parallel(step, devices)


def _initial(task: Task, devices: list[jax.Device]) -> tuple[Init, Init | None]:
    """Return (init, start) of `loop.Job`: the initial state on its devices, with random and with the given weights."""
    group = task.shard_group
    sharding = parallel.leaf_sharding(devices, group) if task.shard_parameters else None

    def place(*given: Any) -> training.TrainState:
        if task.shard_parameters:
            return parallel.init_sharded(task.init, devices, *given, group=group)
        return parallel.place(task.init(*given), devices)

    load = task.given
    return place, None if load is None else lambda: place(load(sharding))


def _evaluations(task: Task, settings: schema.Training) -> list[tuple[int, loop.Evaluation]]:
    if not settings.eval_every or task.test is None:
        return []
    examples, size = settings.eval_examples, settings.batch_size
    return [(settings.eval_every, held_out.make_evaluation(task.plain_loss, task.test, examples, size, task.seed))]


def init_state(key: jax.Array, init_params: Callable[[jax.Array], Any], optimizer: Any) -> training.TrainState:
    """Return the state before the first step, a function of the key alone. init_params: key -> parameters."""
    key_params, key_noise = jax.random.split(key)
    params = init_params(key_params)
    # In one program: eagerly, average and moments of each shape of a parameter would be programs of their own. Without the
    # parameters, which a program would return as a copy.
    begin = lambda key, params: training.init(key, params, optimizer)._replace(params=None)  # noqa: E731
    return parallel.jit(begin)(key_noise, params)._replace(params=params)
