"""Bits per dimension of pictures under a trained run: the variational bound with all its terms, or the exact flow.

guided-jax nll runs/digits --num-samples 200 --out out/
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from guided_jax import grid, guidance, likelihood, parallel, sampler, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample.inverse import HELD_OUT
from guided_jax.app.sample.request import NO_MATTER
from guided_jax.app.sweep.settings import TRAIN
from guided_jax.storage import images
from guided_jax.storage.files import answers, replacing, writable_directory

GREY = np.log2(127.5)  # a grey value is 1 / 127.5 wide in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Measuring:
    """Bits per dimension of pictures under a trained run."""

    run: tyro.conf.Positional[Path]
    """The directory that train.py or convert.py wrote."""
    pictures: str = HELD_OUT
    """held-out, train (the run's own data), or an npz file of pictures and labels as samples.npz."""
    by: Literal["bound", "flow"] = "bound"
    """The variational bound of the chain that ddpm samples, or the exact density along the probability flow."""
    num_samples: int = 1000
    """How many pictures, at most."""
    steps: str | None = None
    """How many steps: of the chain, all of training's if not given, by the rules of sample.py; of the flow, 50."""
    variance: runs.Variance | None = None
    """bound: step variance; without it the learned one of a network that learned it, else small."""
    clip: bool = True
    """bound: clip the predicted clean picture to [-1, 1]."""
    probes: int = 1
    """flow: random directions that estimate the divergence, the same all along one path."""
    unlabelled: bool = False
    """Do not tell the network the pictures' labels; needs a run with label dropout."""
    batch_size: int = 64
    """Pictures at a time, over all devices."""
    seed: int = 0
    out: Path | None = None
    """Where bits.json and terms.npz go; by default RUN/bits/ and what was asked."""
    overwrite: bool = False
    """Replace bits.json and terms.npz that answer something else."""
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""


def check(options: Measuring, run: runs.Run) -> None:
    """What can be wrong, each in one sentence."""
    diffusion = run.experiment.diffusion
    for name in ("num_samples", "batch_size", "probes"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    runs.variance_of(run, options.variance)
    if options.unlabelled and not diffusion.null_label:
        raise ValueError("--unlabelled needs a run with label dropout; leave it out")
    check_read(options)


def check_read(options: Measuring) -> None:
    """ValueError for an option that is not as it comes and that the way to measure does not read."""
    unread = {"bound": ("probes",), "flow": ("variance", "clip")}[options.by]
    for name in unread:
        if getattr(options, name) != getattr(Measuring(options.run), name):
            raise ValueError(f"--{name} has no effect with --by {options.by}; leave it out")
    if options.by == "flow" and not (options.steps or "1").isdecimal():
        raise ValueError(f"--steps is {options.steps}; with --by flow give a number of steps, such as 50")


def pictures_of(options: Measuring, run: runs.Run) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 pictures, labels); ValueError for those that the run's network cannot take."""
    if options.pictures in (HELD_OUT, TRAIN):
        source = run.experiment.data.make(held_out=options.pictures == HELD_OUT)
        batch = source.read(np.arange(min(options.num_samples, len(source))))
        found, labels = batch["image"], batch["label"]
    else:
        found, labels = images.load_npz(options.pictures)
    if not len(found) or found.shape[1:] != run.facts.image_shape:
        raise ValueError(f"--pictures has {len(found)} of {found.shape[1:]}; the run draws {run.facts.image_shape}")
    told = run.experiment.diffusion.conditional and not options.unlabelled
    if told and (labels is None or labels.min() < 0 or labels.max() >= run.facts.num_classes):
        raise ValueError(
            f"{options.pictures} has no labels of the run's {run.facts.num_classes} classes; they are told"
        )
    labels = np.zeros(len(found), np.int32) if labels is None else labels
    return found[: options.num_samples], labels[: options.num_samples]


Measure = Callable[..., dict[str, Any]]  # (params, key, picture in [-1, 1], label) -> numbers, one example


def by_bound(options: Measuring, run: runs.Run, denoiser_of: Callable[..., Any]) -> Measure:
    """The bound and, of each step from noise to clean, its term and the squared errors: ADM's three tables."""
    levels = schedule.respace(run.levels, options.steps) if options.steps else run.levels
    variance = runs.variance_of(run, options.variance)

    def measure(params: Any, key: Any, x_0: Any, label: Any) -> dict[str, Any]:
        denoise = denoiser_of(params, label, x_0)
        denoise = guidance.clip(denoise) if options.clip else denoise
        bound = likelihood.variational_bound(key, denoise, x_0, levels, variance)
        bits = lambda nats: likelihood.bits_per_dim(nats, x_0.size)  # noqa: E731
        terms = {"vb": bits(bound.terms), "xstart_mse": bound.mse_x_0, "mse": bound.mse_eps}
        return {"bits": bits(bound.total), "prior": bits(bound.prior), **terms}

    return measure


def by_flow(options: Measuring, run: runs.Run, denoiser_of: Callable[..., Any]) -> Measure:
    """-log2 p(x_0 + u) an element, u uniform over the width of a grey value: a bound for the grey values ([SDE] D.2).

    p is what the flow makes of noise on its way down to the network's first noisy level, below which it knows nothing.
    """
    # Evenly in log SNR: the flow of data on thin sheets, such as a border that is always black, turns in sigma's own scale.
    levels = grid.log_snr(run.levels, int(options.steps or 50))
    levels = jax.tree.map(lambda part: part[1:], levels)

    def measure(params: Any, key: Any, x_0: Any, label: Any) -> dict[str, Any]:
        key_u, key_probe = jax.random.split(key)
        x = x_0 + jax.random.uniform(key_u, x_0.shape, minval=-1 / 255, maxval=1 / 255)
        divergence, alpha = likelihood.hutchinson(key_probe, options.probes), schedule.at(levels, 0).alpha
        log_p = likelihood.log_density(denoiser_of(params, label, x_0), alpha * x, levels, run.levels, divergence)
        return {"bits": likelihood.bits_per_dim(-log_p, x.size) - jnp.log2(alpha) + GREY}  # of x, not of alpha x

    return measure


def measured(options: Measuring, run: runs.Run, found: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of every picture, (N, ...) each."""
    diffusion, devices = run.experiment.diffusion, parallel.choose_devices(options.batch_size, options.devices)
    null = run.facts.num_classes

    def denoiser_of(params: Any, label: Any, x_0: Any) -> Any:
        low_res = images.shrink(x_0[None], diffusion.low_res)[0] if diffusion.low_res else None
        return runs.denoiser_of(run, run.unet, params, null if options.unlabelled else label, low_res)

    one = {"bound": by_bound, "flow": by_flow}[options.by](options, run, denoiser_of)
    compiled = parallel.parallel_map(one, devices, in_axes=(None, 0, 0, 0))
    params = parallel.place(runs.params(options.run, "diffusion"), devices)
    chunk = parallel.chunk_size(len(found), options.batch_size, devices)

    def draw(rows: np.ndarray) -> Any:
        keys = sampler.keys(jax.random.key(options.seed), rows)
        return compiled(params, keys, images.from_uint8(found[rows]), labels[rows].astype(np.int32))

    parts = []
    with tqdm(total=len(found), desc="measuring", unit="image") as bar:
        for part in parallel.map_in_chunks(draw, len(found), chunk):
            parts.append(part)
            bar.update(len(part["bits"]))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def asked(options: Measuring) -> dict[str, Any]:
    """What determines the numbers."""
    return {name: value for name, value in schema.to_dict(options).items() if name not in NO_MATTER}


def destination(options: Measuring) -> Path:
    """The output folder, made; ValueError when it holds the answer to something else."""
    default = options.run / "bits" / f"{options.by}-{options.steps or 'all'}-{Path(options.pictures).stem}"
    out = writable_directory(options.out or default)
    made = out / "bits.json"
    if made.exists() and not options.overwrite and not answers(made, asked(options)):
        raise ValueError(f"{out} holds the bits of something else; give another --out, or --overwrite")
    return out


def save(out: Path, options: Measuring, each: dict[str, np.ndarray]) -> tuple[float, float]:
    """Writes terms.npz and bits.json; (the mean, its standard error)."""
    mean, count = float(each["bits"].mean(dtype=np.float64)), len(each["bits"])
    error = float(each["bits"].std(ddof=1, dtype=np.float64) / np.sqrt(count)) if count > 1 else float("nan")
    with replacing(out / "terms.npz") as file:
        np.savez(file, **each)
    said = {"bits_per_dim": mean, "standard_error": error if count > 1 else None, "num_samples": count}
    with replacing(out / "bits.json") as file:
        file.write(json.dumps({**said, "asked": asked(options)}, indent=2).encode())
    return mean, error


def main(args: Sequence[str]) -> None:
    """Reads pictures, measures them, writes bits.json and terms.npz, prints the mean."""
    options = cli.parse(Measuring, "guided-jax nll", args, description=__doc__)
    parallel.use_cpu_devices()
    run = runs.load(options.run)
    check(options, run)
    found, labels = pictures_of(options, run)
    out = destination(options)
    mean, error = save(out, options, measured(options, run, found, labels))
    print(f"{mean:.4f} +- {error:.4f} bits per dimension of {len(found)} pictures; {out}")
