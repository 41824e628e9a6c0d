"""Train every network of an experiment; the same command again goes on from the last checkpoint.

python train.py digits [--out runs/digits] [--diffusion.num-steps 500 ...]
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import sample
from configs import command_line, schema
from configs import run as runs
from guided_jax import data, images, log, losses, parallel, training


@dataclasses.dataclass(frozen=True)
class Training:
    """Train every network of an experiment; the same command again goes on from the last checkpoint."""

    experiment: Annotated[schema.Experiment, tyro.conf.arg(name="")]
    out: Path | None = None
    """The run directory; runs/EXPERIMENT by default."""


Loss = Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]  # (params, keys, batch) -> (mean loss, metrics)


def diffusion_loss(run: runs.Run) -> Loss:
    """Denoising with the label dropped at times: what classifier-free guidance needs."""
    settings, classes = run.experiment.diffusion, run.facts.num_classes
    unet = run.unet.clone(
        plain_convolution=True
    )  # the fast one is for gradients inside a scan; here it costs a quarter

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        def network(x: Any, t: Any, label: Any, keys: Any) -> Any:
            return unet.apply(params, x, t, label, dropout_keys=keys if settings.network.dropout else None)

        label = batch["label"] if settings.conditional else None
        if settings.null_label:
            label = losses.drop(keys, label, jnp.int32(classes), settings.label_dropout)
        each = losses.diffusion(network, keys, batch["image"], label, run.levels, settings.parameterization)
        return each.mean(), {}

    return loss


def classifier_loss(run: runs.Run) -> Loss:
    """Cross-entropy of the noisy classifier, and how often it is right."""
    settings, classifier = run.experiment.classifier, run.classifier.clone(plain_convolution=True)

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        def network(x: Any, t: Any, keys: Any) -> Any:
            return classifier.apply(params, x, t, dropout_keys=keys if settings.network.dropout else None)

        each, right = losses.classification(network, keys, batch["image"], batch["label"], run.levels)
        return each.mean(), {"accuracy": right.mean()}

    return loss


def fit(run: runs.Run, part: str, network: Any, loss: Loss, source: data.Source, out: Path, hooks: Any = ()) -> None:
    """Trains one network of the run, "diffusion" or "classifier", into out/part."""
    settings, experiment = getattr(run.experiment, part), run.experiment
    key = jax.random.fold_in(jax.random.key(experiment.seed), ("diffusion", "classifier").index(part))
    key_params, key_noise = jax.random.split(key)
    optimizer = settings.optimizer.make(settings.num_steps)
    example = jnp.zeros((1, *run.facts.image_shape))
    labels = (jnp.zeros(1, jnp.int32),) if part == "diffusion" and experiment.diffusion.conditional else ()
    params = jax.jit(network.init)(key_params, example, jnp.zeros(1), *labels)
    devices = parallel.choose_devices(settings.batch_size, experiment.devices)
    step = functools.partial(training.train_step, loss=loss, optimizer=optimizer, ema_decay=settings.ema_decay)
    directory = out / part
    curves = (settings.checkpoint_every, lambda done, state: _plot(directory))
    training.fit(
        parallel.data_parallel(step, devices),
        parallel.place(training.init(key_noise, params, optimizer), devices),
        data.loader(source, settings.batch_size, experiment.seed, flip=experiment.data.flip),
        settings.num_steps,
        directory=directory,
        config=schema.to_dict(experiment),
        ignore=schema.MAY_CHANGE,
        save_every=settings.checkpoint_every,
        log_every=settings.log_every,
        hooks=[curves, *hooks],
        label=part,
    )
    _plot(directory)


def _plot(directory: Path) -> None:
    if log.read(directory / "metrics.jsonl"):
        log.plot(directory / "metrics.jsonl", directory / "curves.png")


def sample_hook(run: runs.Run, out: Path) -> list[tuple[int, Callable[[int, Any], None]]]:
    """Every so many steps a grid, a column a class: guided where the network can be, drawn from the averaged weights."""
    settings, classes = run.experiment.diffusion, min(run.facts.num_classes, 16)
    if not settings.sample_every:
        return []
    method = sample.Method(
        "classifier-free" if settings.null_label else "none", steps=str(min(25, run.levels.t.size - 1))
    )
    draw = jax.jit(jax.vmap(sample.drawing(run, method, settings.conditional), (None, 0, 0, None)))

    def hook(done: int, state: Any) -> None:
        indices = np.arange(4 * classes)
        keys = sample.sampler.keys(jax.random.key(run.experiment.seed), indices)
        params = jax.device_get({"diffusion": state.ema})
        pictures = images.to_uint8(draw(params, keys, jnp.asarray(indices % classes), 2.0))
        path = out / "diffusion" / f"samples-{done:06d}.png"
        images.save_png(path, images.grid(pictures, columns=classes, scale=sample.zoom(run.facts)))

    return [(settings.sample_every, hook)]


def check(experiment: schema.Experiment) -> None:
    """Numbers that cannot be, each in one sentence."""
    for part in ("diffusion", "classifier"):
        settings = getattr(experiment, part)
        least = {"num_steps": 0, "batch_size": 1, "checkpoint_every": 1, "log_every": 1, "sample_every": 0}
        for name, low in least.items():
            value = getattr(settings, name, low)
            if value < low:
                raise ValueError(f"--{part}.{name.replace('_', '-')} is {value}; give at least {low}")
        for name in ("ema_decay", "label_dropout"):
            value = getattr(settings, name, 0)
            if not 0 <= value <= 1:
                raise ValueError(f"--{part}.{name.replace('_', '-')} is {value}; give a number from 0 to 1")


def train(experiment: schema.Experiment, out: Path) -> None:
    """Trains every network of the experiment into the run directory."""
    check(experiment)
    source = data.load(experiment.data.name, "train", experiment.data.dir)
    run = runs.create(out, experiment, runs.facts_of(source, data.class_frequencies(source)))
    if experiment.diffusion.num_steps:
        fit(run, "diffusion", run.unet, diffusion_loss(run), source, out, sample_hook(run, out))
    if experiment.classifier.num_steps:
        fit(run, "classifier", run.classifier, classifier_loss(run), source, out)


def main(args: Sequence[str]) -> None:
    """Reads the command line, trains, and says where the run is."""
    if not args or args[0] in ("-h", "--help"):
        print(
            f"{__doc__}\nexperiments: {', '.join(schema.names())}\npython train.py EXPERIMENT --help lists its settings"
        )
        raise SystemExit(0 if args else 2)
    name, *rest = args
    default = Training(schema.named(name))
    options = command_line.parse(Training, f"train.py {name}", rest, default, description=__doc__)
    parallel.use_cpu_devices()
    start, out = time.monotonic(), options.out or Path("runs") / name
    train(options.experiment, out)
    print(
        f"{out}: trained in {time.monotonic() - start:.0f} s; now draw: python sample.py {out} --guidance classifier-free"
    )


if __name__ == "__main__":
    command_line.script(main)
