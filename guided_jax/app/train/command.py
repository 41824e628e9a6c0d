"""Train every network of an experiment into the folder of a run."""

import dataclasses
import functools
import signal
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from guided_jax import parallel
from guided_jax.app import best_checkpoint, cli, config_file, experiments, latent_space, posthoc, signals
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.facts import check_classes, describe_labels
from guided_jax.app.facts import describe as describe_facts
from guided_jax.app.facts import of_source as facts_of
from guided_jax.app.sample import draw
from guided_jax.app.train import (
    autoencoder,
    checks,
    curves,
    folder,
    grids,
    init_from,
    job,
    latents,
    networks,
    sample_metrics,
)
from guided_jax.training import loop

PAGE = """usage: guided-jax train EXPERIMENT [OPTIONS]

Train every network of an experiment; the same command again resumes from the last checkpoint.

  guided-jax train digits
  guided-jax train ./my_experiment.py --diffusion.num-steps 3000 --out runs/mine

  --out DIR                                  folder of the run (runs/EXPERIMENT)
  --data.name NAME                           digits, folder:PATH, npz:FILE, idx:PATH or tfds:NAME
  --data.image-size N                        side of the pictures in pixels (as they are)
  --diffusion.num-steps N                    training steps of the diffusion model; 0 skips it
  --classifier.num-steps N                   training steps of the noisy classifier; 0 skips it
  --diffusion.batch-size N                   examples per step
  --diffusion.optimizer.learning-rate R      of AdamW, after the warm-up
  --diffusion.checkpoint-every N             steps between checkpoints
  --diffusion.init-from RUN                  start from the weights of another run: fine-tuning
  --diffusion.network.model-channels N       width of the network
  --diffusion.architecture NAME              unet, or dit: a transformer
  --autoencoder.num-steps N                  of an autoencoder, in whose latents the others work
  --devices N                                how many (as many as divide the batch)
"""


@dataclasses.dataclass(frozen=True)
class Training:
    """Train every network of an experiment; the same command again resumes from the last checkpoint."""

    experiment: Annotated[schema.Experiment, tyro.conf.arg(name="")]
    out: Path | None = None
    """The folder of the run; runs/EXPERIMENT if not given."""


def train(experiment: schema.Experiment, out: Path, stop: Callable[[], Any] = loop.never) -> bool:
    """Train every network of an experiment into a folder; return False when `stop()` ended it early.

    Raises ValueError for settings or data that cannot be trained with, and when another process writes to the folder.
    """
    checks.check(experiment)
    experiment = init_from.located(latent_space.adopt(runs.adopt(experiment)))
    if experiment.autoencoder.from_run:
        checks.check(experiment)  # of a model of latents, which it was not before
    sources = functools.cache(experiment.data.make)
    facts = facts_of(sources(False))
    run, parts = runs.assemble(experiment, facts, out)._replace(source=sources), networks.trained_parts(experiment)
    if "classifier" in parts and facts.labelling != "text":
        check_classes(facts, f"--classifier.num-steps {experiment.classifier.num_steps}", "give 0")
    for part in parts:  # each before the first is trained: batches of other sizes are for other numbers of devices
        draw.check_group(experiment, parallel.choose_devices(getattr(experiment, part).batch_size, experiment.devices))
    measured = sample_metrics.make(run, functools.partial(sources, True))
    for part in parts:
        names = measured.names if measured and part == "diffusion" else ()
        best_checkpoint.check(part, getattr(experiment, part), names)
    starts = [init_from.check(run, part, out) for part in schema.TRAINED]
    latents.check(run, out)
    latents.check_networks(run, parts)
    with folder.exclusive(out):
        config_file.create(out, experiment, facts)
        _announce(experiment, measured, [describe_facts(facts), describe_labels(sources(False)), *starts])
        return _fit_parts(run, parts, sources, out, stop, measured)


def _fit_parts(
    run: runs.Run,
    parts: Sequence[str],
    sources: networks.Sources,
    out: Path,
    stop: Callable[[], Any],
    measured: sample_metrics.SampleMetrics | None,
) -> bool:
    """Train the networks, those of latents on the latents of the autoencoder; return whether all reached their end."""
    of_pictures = [part for part in parts if part in networks.pictures_of(run.experiment)]
    if not all(_fit(run, part, sources, out, stop, measured) for part in of_pictures):
        return False
    of_latents = [part for part in parts if part not in of_pictures]
    kept = latents.keep(run, out, sources, stop) if of_latents else None
    return not of_latents or (
        kept is not None and all(_fit(run, part, kept, out, stop, measured) for part in of_latents)
    )


def _fit(
    run: runs.Run,
    part: str,
    sources: networks.Sources,
    out: Path,
    stop: Callable[[], Any],
    measured: sample_metrics.SampleMetrics | None,
) -> bool:
    """Train one network; return whether it reached its last step."""
    settings, directory = getattr(run.experiment, part), out / part
    prepared = job.prepare(networks.make_task(run, part, sources), settings, directory)
    hooks, evaluations = posthoc.snapshot_hooks(settings, directory), [*prepared.evaluations]
    if part == "autoencoder":
        hooks = autoencoder.make_hooks(run, out, sources(bool(settings.eval_every)))
    if part == "diffusion":
        hooks = [*grids.make_hooks(run, out), *hooks]
        evaluations += [(settings.measure_every, measured.evaluate)] if measured else []
    save_curves = curves.make_hook(directory, run.experiment.tensorboard)
    # The curves come last, since they show the grids.
    hooks = [*hooks, (settings.checkpoint_every, save_curves)]
    state = loop.fit(prepared._replace(hooks=hooks, evaluations=evaluations), stop)
    save_curves(int(state.step), state)
    return int(state.step) >= settings.num_steps


def _announce(
    experiment: schema.Experiment, measured: sample_metrics.SampleMetrics | None, others: Sequence[str | None]
) -> None:
    """Print what is measured of samples, a note where the best checkpoint is chosen among few, and other sentences."""
    notes = [best_checkpoint.note(part, getattr(experiment, part)) for part in networks.trained_parts(experiment)]
    for line in [measured.description if measured else None, *notes, *others]:
        if line and parallel.primary():
            print(line, flush=True)


def main(args: Sequence[str]) -> None:
    """Read the command line, train, and print where the run is."""
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(0 if args else 2)
    name, *rest = args
    default = Training(experiments.load(name))
    options = cli.parse(Training, f"guided-jax train {name}", rest, default, description=PAGE)
    parallel.use_cpu_devices()
    start, out = time.monotonic(), options.out or Path("runs") / Path(name).stem
    # Among several processes SIGTERM belongs to JAX, which has them agree on the step after which to stop.
    deferred = signals.STOP if parallel.single_process() else ()
    with signals.defer(*deferred) as received:
        finished = train(leave_out_ignored(options.experiment, default.experiment), out, received)
    if not finished:
        print(f"{out}: stopped and saved; the same command resumes it")
        raise SystemExit(130 if received() == signal.SIGINT else 0)
    draw = f"; now draw: guided-jax sample {out} --help" if runs.step_of(out, "diffusion", "last") else ""
    print(f"{out}: trained in {time.monotonic() - start:.0f} s{draw}")


def leave_out_ignored(experiment: schema.Experiment, of_file: schema.Experiment) -> schema.Experiment:
    """Return the experiment with the network that the command line replaced at its defaults, where the file had set it.

    No option could take the file's settings of that network away. Those that an option changed stay, and `checks.check`
    refuses them.
    """
    chosen = experiment.diffusion.architecture
    if chosen == of_file.diffusion.architecture:
        return experiment
    name = checks.IGNORED[chosen]
    own, given, usual = (getattr(each, name) for each in (experiment.diffusion, of_file.diffusion, checks.USUAL))
    defaults = {field: getattr(usual, field) for field, value in vars(own).items() if value == getattr(given, field)}
    diffusion = dataclasses.replace(experiment.diffusion, **{name: dataclasses.replace(own, **defaults)})
    return dataclasses.replace(experiment, diffusion=diffusion)


def overview() -> str:
    """Return the page that lists the experiments."""
    usage, what, *_ = PAGE.split("\n\n")
    known = textwrap.fill(f"experiments: {', '.join(experiments.names())},", 100)
    own = "or the path of a Python file that sets EXPERIMENT, such as ./my_experiment.py"
    more = "guided-jax train EXPERIMENT --help: the options used most; --help-all: every option"
    return f"{usage}\n\n{what}\n\n{known}\n{own}\n\n{more}"
