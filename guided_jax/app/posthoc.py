"""Make averaged weights of another length, after training, from the averages that a run stored."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from flax import traverse_util

from guided_jax import parallel
from guided_jax.app import cli, config_file
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.train import folder
from guided_jax.storage import checkpoint, lock, npz
from guided_jax.storage.files import replacing
from guided_jax.training import averaging, loop

PAGE = """usage: guided-jax posthoc RUN [OPTIONS]

Make averaged weights of another length, after training, from the averages that a run stored.

  guided-jax train digits --out runs/lengths --diffusion.power-ema 0.05 0.1
  guided-jax posthoc runs/lengths --sigma-rel 0.15
  guided-jax sample runs/lengths/posthoc/sigma-0.15

  RUN              folder of the run, trained with --diffusion.power-ema
  --sigma-rel R    length of the average, as a share of the training: above 0, up to 0.288 (0.1)
  --step N         training step at which the average ends (the last that was stored)
  --out DIR        folder of the new run (RUN/posthoc/sigma-R)
"""
SNAPSHOTS = "power_ema"  # the folder of a network's stored averages, a file a step


@dataclasses.dataclass(frozen=True)
class Reconstructing:
    """Make averaged weights of another length from the averages that a run stored."""

    run: tyro.conf.Positional[Path]
    """The folder that guided-jax train wrote, with --diffusion.power-ema."""
    sigma_rel: float = 0.1
    """The average's standard deviation, as a share of the training up to its step; above 0, up to 0.288."""
    step: int | None = None
    """The training step that it ends at; the last stored one, if not given."""
    out: Path | None = None
    """The folder of the new run; RUN/posthoc/sigma-SIGMA_REL if not given."""


def snapshot_hooks(settings: Any, directory: Path) -> list[tuple[int, loop.Hook]]:
    """Return the hooks that store the averages of a diffusion model every `snapshot_every` steps and at the end."""
    sigma_rels = getattr(settings, "power_ema", ())
    if not sigma_rels:
        return []

    def save(done: int, state: Any) -> None:
        pairs = zip(sigma_rels, state.opt_state.averages, strict=True)
        save_snapshot(directory, done, {repr(sigma): tree for sigma, tree in pairs})

    every, last = settings.snapshot_every, settings.num_steps
    return [(every, save), *([(last, save)] if last % every else [])]


def save_snapshot(directory: Path, step: int, averages: Mapping[str, Any]) -> None:
    """Write the averages of a step, by their sigma_rel, to DIRECTORY/power_ema/STEP.npz.

    Where they are divided over several processes all have to call it, and the first writes.
    """
    flat = traverse_util.flatten_dict(parallel.to_host(dict(averages)), sep="/")
    if not parallel.primary():
        return
    with replacing(directory / SNAPSHOTS / f"{step}.npz") as file:
        np.savez(file, **flat)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Yield the arrays of a file by name; raise ValueError for a damaged file."""
    try:
        with npz.open_npz(path) as file:
            yield file
    except ValueError as error:
        raise ValueError(f"{error}; delete it, or train again with another --out") from None


def _names(file: Any) -> dict[str, list[str]]:
    """Return the names of the arrays of each sigma_rel, which is spelled as in the file."""
    names: dict[str, list[str]] = {}
    for name in file.files:
        names.setdefault(name.partition("/")[0], []).append(name)
    return names


def sigma_rels_of(path: Path) -> list[float]:
    """Return the sigma_rels of a file's averages, in its order, without reading the averages."""
    with _open(path) as file:
        return [float(sigma) for sigma in _names(file)]


def load_snapshot(path: Path) -> Iterator[tuple[float, Any]]:
    """Yield (sigma_rel, average) of a file, one read at a time; raise ValueError for a damaged file."""
    with _open(path) as file:
        for sigma, names in _names(file).items():
            flat = {name.removeprefix(f"{sigma}/"): file[name] for name in names}
            yield float(sigma), traverse_util.unflatten_dict(flat, sep="/")


def snapshot_steps(run: Path) -> list[int]:
    """Return the steps whose averages a run stored, ascending."""
    folder = run / "diffusion" / SNAPSHOTS
    return sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())


def reconstruct(run: Path, sigma_rel: float, step: int | None = None) -> tuple[int, Any]:
    """Return (step, average) of this sigma_rel at a step, the last stored one by default.

    Raises ValueError when the run stored no averages, none up to the step, or none near enough to this sigma_rel.
    """
    files = _files(run, step)
    end = max(files) if step is None else step
    # From the names of the arrays: the averages of a long run together need not fit in memory.
    pairs = [(at, sigma) for at, path in files.items() for sigma in sigma_rels_of(path)]
    steps, sigma_rels = [at for at, _ in pairs], [sigma for _, sigma in pairs]
    weights = averaging.mixture(steps, sigma_rels, end, sigma_rel)
    averaging.check_mixture(steps, sigma_rels, weights, end, sigma_rel)
    return end, averaging.combine((tree for path in files.values() for _, tree in load_snapshot(path)), weights)


def _files(run: Path, step: int | None) -> dict[int, Path]:
    """Return the files of averages by their step, up to `step`."""
    steps = snapshot_steps(run)
    if not steps:
        raise ValueError(f"{run} has stored no averages; train with --diffusion.power-ema 0.05 0.1")
    if step is not None and not steps[0] <= step <= steps[-1]:
        raise ValueError(f"--step is {step}; {run} has stored averages of the steps {steps[0]} to {steps[-1]}")
    return {at: run / "diffusion" / SNAPSHOTS / f"{at}.npz" for at in steps if step is None or at <= step}


def write(options: Reconstructing) -> Path:
    """Write the new run, with the averaged weights, and the other networks of the run they come from; return its folder.

    Raises ValueError for a folder that holds something, before the averages are read; nothing is left of a run that failed.
    """
    source = runs.load(options.run)
    ending = "" if options.step is None else f"-step-{options.step}"
    out = options.out or options.run / "posthoc" / f"sigma-{options.sigma_rel:g}{ending}"
    out = out.expanduser().absolute()
    with folder.exclusive(out):
        if any(path.name != lock.NAME for path in out.iterdir()):
            raise ValueError(f"{out} is not empty; give another --out, or delete it")
        step, params = reconstruct(options.run, options.sigma_rel, options.step)
        settings = dataclasses.replace(source.experiment.diffusion, num_steps=0)
        experiment = dataclasses.replace(source.experiment, diffusion=settings)
        config_file.create(out, experiment, source.facts)
        with checkpoint.opened(out / "diffusion" / "checkpoints", keep=1) as saved:
            checkpoint.save(saved, step, {"ema": params}, config=schema.to_dict(experiment))
        for part in ("classifier", "autoencoder"):
            if (options.run / part).is_dir():
                target = os.path.relpath(options.run / part, out)  # relative, so that the run may be moved
                (out / part).symlink_to(target, target_is_directory=True)
        with replacing(out / "posthoc.json") as file:
            file.write(json.dumps(schema.to_dict(dataclasses.replace(options, step=step)), indent=2).encode())
    return out


def main(args: Sequence[str]) -> None:
    """Make the run and print how to draw from it."""
    options = cli.parse(Reconstructing, "guided-jax posthoc", args, description=PAGE)
    out = write(options)
    print(f"{out}: the average of sigma_rel {options.sigma_rel:g}; now draw: guided-jax sample {out} --help")
