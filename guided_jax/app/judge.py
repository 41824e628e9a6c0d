"""Train the judge of a run: a classifier of clean pictures, which measures samples and guides none."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from guided_jax import data, parallel, training
from guided_jax.app import cli, facts, limits, networks
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample.request import DataDir
from guided_jax.app.train import folder, job
from guided_jax.app.train.held_out import Loss
from guided_jax.data.splits import MissingSplit
from guided_jax.metrics.judge import CHECKPOINTS, DESCRIPTION, describe
from guided_jax.models.judge import Judge
from guided_jax.storage import log
from guided_jax.training import loop

PAGE = """usage: guided-jax judge RUN [OPTIONS]

Train the judge of a run: a classifier of clean pictures that measures samples and guides none.

  guided-jax judge runs/digits
  guided-jax metrics out/samples.npz digits --judge runs/digits/judge

  RUN                  folder of the run, whose training data the judge learns from
  --out DIR            folder of the judge (RUN/judge)
  --num-steps N        training steps (1000)
  --batch-size N       examples per step (128)
  --learning-rate R    at the start; it decays to 0 (2e-3)
  --channels N ...     width of each pair of convolutions (32 64 64)
  --seed N             of weights, order of the data and shifts (0)
  --devices N          how many (as many as divide the batch)
  --data.dir DIR       folder of the run's data, if it was moved
"""
EVERY = 250  # steps between checkpoints, each with its accuracy on held-out data


@dataclasses.dataclass(frozen=True)
class Judging:
    """Train the judge of a run; the same command again resumes from the last checkpoint."""

    run: tyro.conf.Positional[Path]
    """The folder that guided-jax train wrote, whose training data the judge learns from."""
    out: Path | None = None
    """The folder of the judge; RUN/judge if not given."""
    num_steps: int = 1000
    """Training steps."""
    batch_size: int = 128
    """Examples per step."""
    learning_rate: float = 2e-3
    """The learning rate at the start; it decays to 0."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Of two convolutions each; the last but one are the features that distances are measured in."""
    seed: int = 0
    """The seed of weights, order of the data and shifts."""
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""
    data_dir: DataDir = None
    """The folder that holds the data of the run, if it was moved since the run was trained."""


def shift(key: Any, x: Any) -> Any:
    """Return a picture (H, W, C) moved by up to an eighth of its sides, in whole pixels, its edge repeated."""
    most = tuple(max(1, side // 8) for side in x.shape[:2])
    padded = jnp.pad(x, [*((side, side) for side in most), (0, 0)], mode="edge")
    place = jax.random.randint(key, (2,), 0, 2 * jnp.asarray(most) + 1)
    return jax.lax.dynamic_slice(padded, (place[0], place[1], 0), x.shape)


def make_loss(network: Judge, augment: bool = True) -> Loss:
    """Return the cross-entropy on pictures, with the accuracy; `augment` shifts each picture."""

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        x = jax.vmap(shift)(keys, batch["image"]) if augment else batch["image"]
        output: Any = network.apply(params, x)
        logits = output[1]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return each.mean(), {"accuracy": (logits.argmax(-1) == batch["label"]).mean()}

    return loss


def pictures_held_out(run: runs.Run) -> data.Source | None:
    """Return the run's held-out data, None where there is none; data that cannot be read is an error."""
    try:
        return None if run.source is None else runs.source(run, held_out=True)
    except MissingSplit:
        return None


def train(options: Judging, run: runs.Run) -> Path:
    """Train the judge, from its last checkpoint if it has one, and return its folder.

    Raises ValueError when the folder holds another judge, or one of other data.
    """
    limits.check(options)
    facts.check_pictures(run.facts, "a judge")
    facts.check_classes(run.facts, "a judge", "measure by --inception or --dino")
    out, shape = options.out or options.run / "judge", run.facts.image_shape
    network = Judge(run.facts.num_classes, options.channels)
    prepared = job.prepare(_task(options, run, network), _settings(options), out)
    with folder.exclusive(out, (DESCRIPTION, CHECKPOINTS, "metrics.jsonl")):
        parallel.from_primary(lambda: _describe(out, network, shape))
        loop.fit(prepared)
        parallel.from_primary(lambda: _describe(out, network, shape, options.num_steps))
    return out


def _describe(out: Path, network: Judge, shape: tuple[int, ...], trained: int | None = None) -> bool:
    """Write judge.json, and the curves of a trained judge."""
    describe(out, network, shape, trained)
    if trained:
        log.plot(out / "metrics.jsonl", out / "curves.png")
    return True


def _settings(options: Judging) -> schema.Training:
    return schema.Training(
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        checkpoint_every=EVERY,
        eval_every=EVERY,
        eval_examples=10_000,
        keep_best=False,
        ema_decay=0.99,
        optimizer=schema.Optimizer(options.learning_rate, warmup_steps=0, weight_decay=0.05),
    )


def _task(options: Judging, run: runs.Run, network: Judge) -> job.Task:
    source, settings = runs.source(run), run.experiment and run.experiment.data
    optimizer, example = _settings(options).make_optimizer(), jnp.zeros((1, *run.facts.image_shape))

    def init() -> training.TrainState:
        init_params = lambda key: networks.init_network(network, key, example)  # noqa: E731
        return job.init_state(jax.random.key(options.seed), init_params, optimizer)

    return job.Task(
        label="judge",
        loss=make_loss(network),
        plain_loss=make_loss(network, augment=False),
        init=init,
        source=source,
        test=pictures_held_out(run),
        seed=options.seed,
        flip=run.flip,
        devices=options.devices,
        config=_config(options, settings, source),
        may_change=("data.dir", "data.corrupt", "data.held_out"),
    )


def _config(options: Judging, settings: schema.Data | None, source: data.Source) -> dict[str, Any]:
    """Return what a checkpoint is saved with: a start with another rate or other data does not resume it."""
    named = {name: getattr(options, name) for name in ("learning_rate", "batch_size", "seed")}
    newer = ("class_names", "kind", "bound", "labelling")  # not in the checkpoints of older judges
    shown = {name: value for name, value in facts.of_source(source)._asdict().items() if name not in newer}
    return {**named, "data": {**(schema.to_dict(settings) if settings else {}), **shown}}


def main(args: Sequence[str]) -> None:
    """Train the judge and print its accuracy on held-out pictures."""
    options = cli.parse(Judging, "guided-jax judge", args, description=PAGE)
    parallel.use_cpu_devices()
    out = train(options, runs.load(options.run, options.data_dir))
    accuracies = [row["held_out_accuracy"] for row in log.read(out / "metrics.jsonl") if "held_out_accuracy" in row]
    print(
        f"{out}: " + (f"right on {accuracies[-1]:.1%} of the held-out pictures" if accuracies else "no held-out data")
    )
