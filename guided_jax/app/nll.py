"""Bits per dimension of pictures under a run: the variational bound with all its terms, or the exact flow."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from guided_jax import data, grid, guidance, likelihood, parallel, progress, sampler, schedule
from guided_jax.app import cli, facts, settings
from guided_jax.app import run as runs
from guided_jax.app.results import check_free
from guided_jax.app.sample import draw
from guided_jax.app.sample.labels import of_file
from guided_jax.app.sample.request import HELD_OUT, NOT_RECORDED, TRAIN, DataDir, Variance
from guided_jax.app.sample.resolve import variance_of
from guided_jax.denoiser import Denoiser
from guided_jax.storage import images
from guided_jax.storage.files import replacing, writable_directory

PAGE = """
usage: guided-jax nll RUN [OPTIONS]

Bits per dimension of pictures under a run (bits.json, terms.npz): the variational bound of its
chain with all its terms, or the density along its probability flow.

  guided-jax nll runs/digits
  guided-jax nll runs/digits --by flow --num-samples 100 --probes 4

  --pictures WHAT      held-out (default), train, or an npz file such as samples.npz
  --by bound|flow      default bound
  --num-samples INT    at most so many pictures (default 1000)
  --steps INT          of the chain: all of training's by default; of the flow: 50
  --variance NAME      bound: small, large or learned; default: learned if there is one
  --probes INT         flow: random directions that estimate the divergence (default 1)
  --unlabelled         leave the pictures' labels out; needs a run with label dropout
  --data.dir DIR       folder of the data of the run, if it was moved
  --out FOLDER         default: RUN/bits/ and what was computed
"""
GREY = np.log2(127.5)  # a grey value is 1 / 127.5 wide in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Nll:
    """Bits per dimension of pictures under a trained run."""

    run: tyro.conf.Positional[Path]
    """A run directory, as `guided-jax train` and `guided-jax convert` make it."""
    pictures: str = HELD_OUT
    """held-out, train (the run's own data), or an npz file of pictures and labels such as samples.npz."""
    by: Literal["bound", "flow"] = "bound"
    """The variational bound of the chain that ddpm samples, or the exact density along the probability flow."""
    num_samples: int = 1000
    """The number of pictures, at most."""
    steps: str | None = None
    """The number of steps: of the chain by the rules of guided-jax sample (default: all of training's), of the flow
    (default: 50)."""
    variance: Variance | None = None
    """bound: the variance of a step. Default: the learned one of a network that learned it, else small."""
    clip: bool = True
    """bound: clip the predicted clean picture to [-1, 1]."""
    probes: int = 1
    """flow: random directions that estimate the divergence, the same all along one path."""
    unlabelled: bool = False
    """Leave the pictures' labels out; needs a run with label dropout."""
    batch_size: int = 64
    """Pictures at a time, over all devices."""
    seed: int = 0
    out: Path | None = None
    """Where bits.json and terms.npz go. Default: RUN/bits/ and what was computed."""
    overwrite: bool = False
    """Replace the bits.json and terms.npz of another request."""
    devices: int | None = None
    """How many devices to use. Default: the largest count that divides the batch."""
    data_dir: DataDir = None
    """The folder that holds the data of the run, if it was moved since the run was trained."""


def check(options: Nll, run: runs.Run) -> None:
    """Raise ValueError for the first thing that is wrong with a request to a run."""
    variance_of(run, options.variance)
    if options.unlabelled and run.model.null is None:
        raise ValueError("--unlabelled needs a run with label dropout; leave it out")
    facts.check_pictures(run.facts, "guided-jax nll")
    if run.model.shape != run.facts.image_shape:
        raise ValueError(f"nll is of pixels, and this model works on x of {run.model.shape}")
    check_readers(options)


def check_readers(options: Nll) -> None:
    """Raise ValueError for a non-default option that --by ignores."""
    ignored = {"bound": ("probes",), "flow": ("variance", "clip")}[options.by]
    for name in ignored:
        if getattr(options, name) != getattr(Nll(options.run), name):
            raise ValueError(f"--{name} has no effect with --by {options.by}; leave it out")
    if options.data_dir is not None and options.pictures not in (HELD_OUT, TRAIN):
        raise ValueError("--data.dir has no effect with pictures in a file; leave it out")
    if options.by == "flow" and not (options.steps or "1").isdecimal():
        raise ValueError(f"--steps is {options.steps}; with --by flow give a number of steps, such as 50")


def pictures_of(options: Nll, run: runs.Run) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint8 pictures, labels); ValueError for pictures that the run's network cannot take."""
    labels: np.ndarray | None
    if options.pictures in (HELD_OUT, TRAIN):
        source = runs.source(run, held_out=options.pictures == HELD_OUT)
        batch = source.read(np.arange(min(options.num_samples, len(source))))
        found, labels = batch["image"], batch["label"]
    else:
        found, labels = images.load_npz(options.pictures)
    if not len(found) or found.shape[1:] != run.facts.image_shape:
        raise ValueError(f"--pictures has {len(found)} of {found.shape[1:]}; the run draws {run.facts.image_shape}")
    needed = run.conditional and not options.unlabelled
    if run.facts.labelling == "text" and labels is not None and options.pictures in (HELD_OUT, TRAIN):
        return found, labels
    fitting = of_file(run.facts, labels)
    if needed and fitting is None:
        raise ValueError(
            f"{options.pictures} has no labels of the run's {facts.count_labels(run.facts)}, which its network needs; give "
            "pictures with labels, or --unlabelled"
        )
    _, shape = run.facts.stored_label
    given = np.zeros((len(found), *shape)) if fitting is None else fitting
    rows = slice(options.num_samples)
    return found[rows], given[rows].astype(np.int32 if run.facts.labelling == "class" else np.float32)


Measure = Callable[..., dict[str, Any]]  # (params, key, picture in [-1, 1], label) -> numbers, one example


def by_bound(options: Nll, run: runs.Run, denoiser_of: Callable[..., Any]) -> Measure:
    """Return the bound and, of each step from noise to clean, its term and the squared errors: ADM's three tables."""
    levels = schedule.respace(run.model.levels, options.steps) if options.steps else run.model.levels
    variance = variance_of(run, options.variance)

    def measure(params: Any, key: Any, x_0: Any, label: Any) -> dict[str, Any]:
        denoise = denoiser_of(params, label, x_0)
        denoise = guidance.clip(denoise) if options.clip else denoise
        bound = likelihood.variational_bound(key, denoise, x_0, levels, variance)
        bits = lambda nats: likelihood.bits_per_dim(nats, x_0.size)  # noqa: E731
        terms = {"vb": bits(bound.terms), "xstart_mse": bound.mse_x_0, "mse": bound.mse_eps}
        return {"bits": bits(bound.total), "prior": bits(bound.prior), **terms}

    return measure


def by_flow(options: Nll, run: runs.Run, denoiser_of: Callable[..., Any]) -> Measure:
    """-log2 p(x_0 + u) an element, u uniform over the width of a grey value: a bound for the grey values ([SDE] D.2).

    p is what the flow makes of noise on its way down to the network's first noisy level, below which it knows nothing.
    """
    # Evenly in log SNR: the flow of data on thin sheets, such as a border that is always black, turns in sigma's own scale.
    levels = grid.log_snr(run.model.levels, int(options.steps or 50))
    levels = jax.tree.map(lambda part: part[1:], levels)

    def measure(params: Any, key: Any, x_0: Any, label: Any) -> dict[str, Any]:
        key_u, key_probe = jax.random.split(key)
        x = x_0 + jax.random.uniform(key_u, x_0.shape, minval=-1 / 255, maxval=1 / 255)
        divergence, alpha = likelihood.hutchinson(key_probe, options.probes), schedule.at(levels, 0).alpha
        log_p = likelihood.log_density(denoiser_of(params, label, x_0), alpha * x, levels, run.model.levels, divergence)
        return {"bits": likelihood.bits_per_dim(-log_p, x.size) - jnp.log2(alpha) + GREY}  # of x, not of alpha x

    return measure


def measure(options: Nll, run: runs.Run, found: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the numbers of every picture, (N, ...) each."""
    devices = parallel.choose_devices(options.batch_size, options.devices)

    def denoiser_of(params: Any, label: Any, x_0: Any) -> Denoiser:
        low_res = images.shrink(x_0[None], run.low_res)[0] if run.low_res else None
        raw = run.model.null if options.unlabelled else run.raw(label)
        return runs.make_denoiser(run, params, run.model.condition(params, raw), low_res=low_res)

    one = {"bound": by_bound, "flow": by_flow}[options.by](options, run, denoiser_of)
    compiled = parallel.parallel_map(one, devices, in_axes=(None, 0, 0, 0))
    params = draw.place(run, {"diffusion": run.params("diffusion")}, devices)["diffusion"]
    chunk = parallel.chunk_size(len(found), options.batch_size, devices)

    def rows(indices: np.ndarray) -> Any:
        keys = sampler.keys(jax.random.key(options.seed), indices)
        return compiled(params, keys, data.scale(found[indices]), labels[indices])

    parts = []
    with progress.bar(len(found), "measuring", "image", disable=not parallel.primary()) as bar:
        for part in parallel.map_in_chunks(rows, len(found), chunk):
            parts.append(part)
            bar.update(len(part["bits"]))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def recorded(options: Nll) -> dict[str, Any]:
    """Return what determines the numbers."""
    return {name: value for name, value in settings.to_dict(options).items() if name not in NOT_RECORDED}


def destination(options: Nll) -> Path:
    """Return the output folder, made; ValueError when it holds the bits of another request."""
    default = options.run / "bits" / f"{options.by}-{options.steps or 'all'}-{Path(options.pictures).stem}"
    out = writable_directory(options.out or default)
    made = out / "bits.json"
    check_free([made], made, recorded(options), options.overwrite)
    return out


def save(out: Path, options: Nll, each: dict[str, Any]) -> tuple[float, float]:
    """Write terms.npz and bits.json, in process 0; return (the mean, its standard error)."""
    mean, count = float(each["bits"].mean(dtype=np.float64)), len(each["bits"])
    error = float(each["bits"].std(ddof=1, dtype=np.float64) / np.sqrt(count)) if count > 1 else float("nan")
    if not parallel.primary():
        return mean, error
    with replacing(out / "terms.npz") as file:
        np.savez(file, **each)
    found = {"bits_per_dim": mean, "standard_error": error if count > 1 else None, "num_samples": count}
    with replacing(out / "bits.json") as file:
        file.write(json.dumps({**found, "asked": recorded(options)}, indent=2).encode())
    return mean, error


def main(args: Sequence[str]) -> None:
    """Read pictures, compute their bits, write bits.json and terms.npz, and print the mean."""
    options = cli.parse(Nll, "guided-jax nll", args, description=PAGE)
    parallel.use_cpu_devices()
    run = runs.load(options.run, options.data_dir)
    check(options, run)
    found, labels = pictures_of(options, run)
    out = destination(options)
    mean, error = save(out, options, measure(options, run, found, labels))
    print(f"{mean:.4f} +- {error:.4f} bits per dimension of {len(found)} pictures; {out}")
