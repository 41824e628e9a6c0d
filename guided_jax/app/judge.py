"""Train the judge of a run: a classifier of clean pictures, on the run's own training data, that guides nothing.

guided-jax judge runs/digits

What measures samples must not have made them, so the run's noisy classifier is never asked. `sample.py --sweep` trains
the judge itself if it is not there yet; `guided-jax metrics --judge runs/digits/judge` asks it of any pictures of
that shape.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from guided_jax import data, parallel, training
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.train import held_out
from guided_jax.metrics.judge import describe
from guided_jax.models.judge import Judge
from guided_jax.storage import log
from guided_jax.storage.files import writable_directory
from guided_jax.training import loop

EVERY = 250  # steps between checkpoints, each with its accuracy on held-out data


@dataclasses.dataclass(frozen=True)
class Judging:
    """Train the judge of a run, a classifier of clean pictures; the same command again goes on."""

    run: tyro.conf.Positional[Path]
    """The directory that train.py wrote: its data is learned from."""
    out: Path | None = None
    """Where the judge goes; RUN/judge if not given."""
    num_steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-3
    channels: tuple[int, ...] = (32, 64, 64)
    """Of two convolutions each; the last but one are the features that distances are measured in."""
    seed: int = 0
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""


Loss = Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]  # (params, keys, batch) -> (mean loss, metrics)


def shifted(key: Any, x: Any) -> Any:
    """A picture (H, W, C) moved by up to an eighth of its sides, whole pixels, its edge repeated."""
    most = tuple(max(1, side // 8) for side in x.shape[:2])
    padded = jnp.pad(x, [*((side, side) for side in most), (0, 0)], mode="edge")
    place = jax.random.randint(key, (2,), 0, 2 * jnp.asarray(most) + 1)
    return jax.lax.dynamic_slice(padded, (place[0], place[1], 0), x.shape)


def loss_of(network: Judge, augment: bool = True) -> Loss:
    """Cross-entropy on pictures, each moved a little, and how often the network is right."""

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        x = jax.vmap(shifted)(keys, batch["image"]) if augment else batch["image"]
        found: Any = network.apply(params, x)
        logits = found[1]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return each.mean(), {"accuracy": (logits.argmax(-1) == batch["label"]).mean()}

    return loss


def pictures_held_out(run: runs.Run) -> data.Source | None:
    """The run's held-out data, None where there is none."""
    try:
        return runs.source(run, held_out=True)
    except ValueError:
        return None


def train(options: Judging, run: runs.Run) -> Path:
    """Trains the judge, from its last checkpoint if it has one; where it is."""
    out = writable_directory(options.out or options.run / "judge")
    network = Judge(run.facts.num_classes, options.channels)
    describe(out, network, run.facts.image_shape)
    devices = parallel.choose_devices(options.batch_size, options.devices)
    optimizer = training.optimizer(options.learning_rate, options.num_steps, weight_decay=0.05)
    step = functools.partial(training.train_step, loss=loss_of(network), optimizer=optimizer, ema_decay=0.99)
    key_params, key_noise = jax.random.split(jax.random.key(options.seed))
    params = jax.jit(network.init)(key_params, jnp.zeros((1, *run.facts.image_shape)))
    test, evaluate = pictures_held_out(run), []
    if test is not None:
        plain = loss_of(network, augment=False)
        evaluate = [(EVERY, held_out.evaluation(plain, test, 10_000, options.batch_size, options.seed))]
    loop.fit(
        parallel.data_parallel(step, devices),
        parallel.place(training.init(key_noise, params, optimizer), devices),
        data.loader(runs.source(run), options.batch_size, options.seed, flip=run.flip),
        options.num_steps,
        directory=out,
        config={"learning_rate": options.learning_rate, "batch_size": options.batch_size, "seed": options.seed},
        save_every=EVERY,
        log_every=25,
        evaluate=evaluate,
        label="judge",
    )
    describe(out, network, run.facts.image_shape, options.num_steps)
    log.plot(out / "metrics.jsonl", out / "curves.png")
    return out


def main(args: Sequence[str]) -> None:
    """Trains the judge and says how often it is right on held-out pictures."""
    options = cli.parse(Judging, "guided-jax judge", args, description=__doc__)
    parallel.use_cpu_devices()
    run = runs.load(options.run)
    for name in ("num_steps", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    out = train(options, run)
    right = [row["held_out_accuracy"] for row in log.read(out / "metrics.jsonl") if "held_out_accuracy" in row]
    print(f"{out}: " + (f"right on {right[-1]:.1%} of the held-out pictures" if right else "no pictures are held out"))
