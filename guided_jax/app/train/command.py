"""Train every network of an experiment; the same command again goes on from the last checkpoint.

guided-jax train digits [--out runs/digits] [--diffusion.num-steps 500 ...]
"""

import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from guided_jax import data, parallel, training
from guided_jax.app import best_checkpoint as keeping
from guided_jax.app import cli, experiments, facts, pixel_model, posthoc
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app import signals as stopping
from guided_jax.app.train import held_out, objective
from guided_jax.app.train import monitoring as watching
from guided_jax.training import loop


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Several processes that train one network, each started with the same command; see docs/training.md."""

    auto: bool = False
    """Find the others by what a TPU pod, Slurm or Open MPI tells."""
    coordinator: str | None = None
    """Host and port of process 0, such as host0:1234."""
    num_processes: int | None = None
    process_id: int | None = None
    """Which of them this is, from 0."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Train every network of an experiment; the same command again goes on from the last checkpoint."""

    experiment: Annotated[schema.Experiment, tyro.conf.arg(name="")]
    out: Path | None = None
    """The run directory; runs/EXPERIMENT by default."""
    distributed: Distributed = dataclasses.field(default_factory=Distributed)


Sources = Callable[[bool], data.Source]  # what to train with, or what is held out


def evaluation(run: runs.Run, part: str, source: data.Source) -> Callable[[Any], dict[str, float]]:
    """As `held_out.evaluation`, of that network of the run."""
    settings, loss = getattr(run.experiment, part), objective.LOSSES[part](run, plain=True)
    return held_out.evaluation(loss, source, settings.eval_examples, settings.batch_size, run.experiment.seed)


def fit(
    run: runs.Run,
    part: str,
    sources: Sources,
    out: Path,
    hooks: Sequence[watching.Hook] = (),
    stop: Any = loop.never,
    measure: watching.Measures | None = None,
) -> bool:
    """Trains one network of the run, "diffusion" or "classifier", into out/part; False when it was stopped."""
    settings, experiment, directory = getattr(run.experiment, part), run.experiment, out / part
    devices = parallel.choose_devices(settings.batch_size, experiment.devices)
    step = functools.partial(
        training.train_step,
        loss=objective.LOSSES[part](run),
        optimizer=settings.make_optimizer(),
        ema_decay=settings.ema_decay,
        microbatches=settings.microbatches,
    )
    step = objective.numbered(step, settings)
    share, start = parallel.share(), functools.partial(beginning, run, part)
    if experiment.shard_parameters:
        compiled, state = parallel.fully_sharded(step, devices), parallel.init_sharded(start, devices)
    else:
        compiled, state = parallel.data_parallel(step, devices), parallel.place(start(), devices)
    evaluate = [(settings.eval_every, evaluation(run, part, sources(True)))] if settings.eval_every else []
    evaluate += [(settings.measure_every, measure.evaluate)] if measure else []
    curves = watching.curves(directory, experiment.tensorboard)
    state = loop.fit(
        compiled,
        state,
        data.loader(sources(False), settings.batch_size, experiment.seed, flip=experiment.data.flip, share=share),
        settings.num_steps,
        directory=directory,
        config=schema.to_dict(experiment),
        ignore=schema.MAY_CHANGE,
        save_every=settings.checkpoint_every,
        log_every=settings.log_every,
        keep=settings.keep,
        keep_best=settings.keep_best_by if settings.keep_best else None,
        keep_highest=keeping.highest(settings.keep_best_by),
        evaluate=evaluate,
        # The curves last: they show the others' pictures.
        hooks=[*hooks, *posthoc.hooks(settings, directory), (settings.checkpoint_every, curves)],
        dispatch=settings.steps_per_dispatch,
        stop=stop,
        label=part,
    )
    if parallel.primary():
        curves(int(state.step), state)
    return int(state.step) >= settings.num_steps


def beginning(run: runs.Run, part: str) -> training.TrainState:
    """The state of that network before its first step: a function of the seed alone."""
    network = {"diffusion": run.networks.unet, "classifier": run.networks.classifier}[part]
    settings = getattr(run.experiment, part)
    key = jax.random.fold_in(jax.random.key(run.experiment.seed), ("diffusion", "classifier").index(part))
    key_params, key_noise = jax.random.split(key)
    params = jax.jit(network.init)(key_params, *pixel_model.example(run.experiment, run.facts, part))
    return training.init(key_noise, params, settings.make_optimizer())


LEAST = {
    **dict.fromkeys(("num_steps", "sample_every", "eval_every", "measure_every"), 0),
    **dict.fromkeys(("batch_size", "checkpoint_every", "log_every", "eval_examples", "keep"), 1),
    **dict.fromkeys(("microbatches", "steps_per_dispatch", "snapshot_every"), 1),
}


def check(experiment: schema.Experiment) -> None:
    """Numbers that cannot be, each in one sentence."""
    for part in ("diffusion", "classifier"):
        settings = getattr(experiment, part)
        for name, low in LEAST.items():
            value = getattr(settings, name, low)
            if value < low:
                raise ValueError(f"--{part}.{name.replace('_', '-')} is {value}; give at least {low}")
        for name in ("ema_decay", "label_dropout"):
            value = getattr(settings, name, 0)
            if not 0 <= value <= 1:
                raise ValueError(f"--{part}.{name.replace('_', '-')} is {value}; give a number from 0 to 1")
    objective.check(experiment)


def train(experiment: schema.Experiment, out: Path, stop: Callable[[], Any] = loop.never) -> bool:
    """Trains every network of the experiment into the run directory; False when `stop()` ended it early."""
    check(experiment)
    experiment = runs.adopt(experiment)
    sources = functools.cache(lambda held_out: experiment.data.make(held_out))
    known = facts.of_source(sources(False), data.class_frequencies(sources(False)))
    run = runs.assemble(experiment, known)
    parts = [part for part in ("diffusion", "classifier") if getattr(experiment, part).num_steps]
    measure = watching.measuring(run, functools.partial(sources, True))
    for part in parts:
        keeping.check(part, getattr(experiment, part), measure.names if measure and part == "diffusion" else ())
    runs.create(out, experiment, known)  # after all that may be refused
    if measure and parallel.primary():
        print(measure.said)

    def one(part: str) -> bool:
        looked_at = (watching.sample_hook(run, out), stop, measure) if part == "diffusion" else ((), stop)
        return fit(run, part, sources, out, *looked_at)

    return all(map(one, parts))


def main(args: Sequence[str]) -> None:
    """Reads the command line, trains, and says where the run is."""
    if not args or args[0] in ("-h", "--help"):
        print(
            f"{__doc__}\nexperiments: {', '.join(experiments.names())}\n"
            "guided-jax train EXPERIMENT --help lists its settings"
        )
        raise SystemExit(0 if args else 2)
    name, *rest = args
    default = Training(experiments.load(name))
    options = cli.parse(Training, f"guided-jax train {name}", rest, default, description=__doc__)
    parallel.use_cpu_devices()
    together = options.distributed
    parallel.join(together.coordinator, together.num_processes, together.process_id, together.auto)
    start, out = time.monotonic(), options.out or Path("runs") / name
    # Among several processes SIGTERM belongs to JAX, which has them agree on the step after which to stop.
    alone = (signal.SIGTERM, signal.SIGINT) if parallel.single_process() else ()
    with parallel.exit_if_peer_lost(), stopping.remembered(*alone) as stop:
        finished = train(options.experiment, out, stop)
    if not finished:
        print(f"{out}: stopped and saved; the same command goes on from there")
        raise SystemExit(130 if stop() == signal.SIGINT else 0)
    if parallel.primary():
        seconds = time.monotonic() - start
        print(f"{out}: trained in {seconds:.0f} s; now draw: guided-jax sample {out} --help")
