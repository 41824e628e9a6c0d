"""Make the averaged weights of another length, after training, from the averages by a power of the step that a run stored.

    guided-jax train digits --out runs/digits --diffusion.power-ema 0.05 0.1
    guided-jax posthoc runs/digits --sigma-rel 0.15
    guided-jax sample runs/digits/posthoc/sigma-0.15

What it makes is a run of its own, which sample.py draws from like any other. docs/training.md has the formulas.
"""

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import traverse_util

from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.storage import checkpoint
from guided_jax.storage.files import replacing, writable_directory
from guided_jax.training import averaging

SNAPSHOTS = "power_ema"  # the folder of a network's stored averages, a file a step


@dataclasses.dataclass(frozen=True)
class Reconstructing:
    """Make the averaged weights of another length from what a run stored."""

    run: tyro.conf.Positional[Path]
    """The directory that train.py wrote, with --diffusion.power-ema."""
    sigma_rel: float = 0.1
    """The average's standard deviation, as a share of the training up to its step; above 0, up to 0.288."""
    step: int | None = None
    """The training step that it ends at; the last stored one, if not given."""
    out: Path | None = None
    """The run that is made; RUN/posthoc/sigma-SIGMA_REL if not given."""


def hooks(settings: Any, directory: Path) -> list[tuple[int, Callable[[int, Any], None]]]:
    """For `loop.fit`: the averages of a diffusion network are stored every so often and at the end."""
    sigma_rels = getattr(settings, "power_ema", ())
    if not sigma_rels:
        return []

    def store(done: int, state: Any) -> None:
        pairs = zip(sigma_rels, state.opt_state.averages, strict=True)
        save_snapshot(directory, done, {repr(sigma): tree for sigma, tree in pairs})

    every, last = settings.snapshot_every, settings.num_steps
    return [(every, store), *([(last, store)] if last % every else [])]


def save_snapshot(directory: Path, step: int, averages: Mapping[str, Any]) -> None:
    """Writes the averages of a step, by their sigma_rel, into DIRECTORY/power_ema/STEP.npz."""
    flat = traverse_util.flatten_dict(jax.device_get(dict(averages)), sep="/")
    with replacing(directory / SNAPSHOTS / f"{step}.npz") as file:
        np.savez(file, **flat)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays of a file by name; ValueError for a file that is not whole."""
    try:
        with np.load(path) as file:
            yield file
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, or train again with another --out") from None


def _names(file: Any) -> dict[str, list[str]]:
    """sigma_rel, as it is written -> the names of its arrays."""
    found: dict[str, list[str]] = {}
    for name in file.files:
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def lengths(path: Path) -> list[float]:
    """The sigma_rels of a file's averages, in its order, without reading them; ValueError for what is no such file."""
    with _opened(path) as file:
        return [float(sigma) for sigma in _names(file)]


def averages(path: Path) -> Iterator[tuple[float, Any]]:
    """(sigma_rel, average) of a file, each read when it is asked for; ValueError for a file that is not whole."""
    with _opened(path) as file:
        for sigma, names in _names(file).items():
            flat = {name.removeprefix(f"{sigma}/"): file[name] for name in names}
            yield float(sigma), traverse_util.unflatten_dict(flat, sep="/")


def stored(run: Path) -> list[int]:
    """The steps whose averages a run has, ascending."""
    folder = run / "diffusion" / SNAPSHOTS
    return sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())


FAR = 0.05  # of the sigma_rel asked for


def reconstruct(run: Path, sigma_rel: float, step: int | None = None) -> tuple[int, Any]:
    """(its step, the average of this sigma_rel); ValueError when the run stored none, none up to the step, or none near
    enough to this length."""
    steps = stored(run)
    if not steps:
        raise ValueError(f"{run} has stored no averages; train with --diffusion.power-ema 0.05 0.1")
    end = steps[-1] if step is None else step
    if not steps[0] <= end <= steps[-1]:
        raise ValueError(f"--step is {end}; {run} has stored averages of the steps {steps[0]} to {steps[-1]}")
    files = {step: run / "diffusion" / SNAPSHOTS / f"{step}.npz" for step in steps if step <= end}
    # From the names of the arrays: the averages of a long run together need not fit in memory.
    each = [(step, sigma) for step, path in files.items() for sigma in lengths(path)]
    at, sigma_rels = [step for step, _ in each], [sigma for _, sigma in each]
    weights = averaging.mixture(at, sigma_rels, end, sigma_rel)
    there = averaging.reached(at, sigma_rels, weights, end)
    if not abs(there / sigma_rel - 1) < FAR:
        known = ", ".join(f"{sigma:g}" for sigma in sorted(set(sigma_rels)))
        raise ValueError(
            f"sigma_rel {sigma_rel:g} is too far from {known}, which {run} has stored: "
            f"{there:.3g} would come of it; ask for one nearer to them"
        )
    return end, averaging.combine((tree for path in files.values() for _, tree in averages(path)), weights)


def write(options: Reconstructing) -> Path:
    """The run that was made: config.json, the reconstructed weights, and the classifier of the run it was made from."""
    averaging.exponent(options.sigma_rel)
    made = runs.load(options.run)
    step, params = reconstruct(options.run, options.sigma_rel, options.step)
    ending = "" if options.step is None else f"-step-{step}"
    out = writable_directory(options.out or options.run / "posthoc" / f"sigma-{options.sigma_rel:g}{ending}")
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty; give another --out, or delete it")
    settings = dataclasses.replace(made.experiment.diffusion, num_steps=0)
    experiment = dataclasses.replace(made.experiment, diffusion=settings)
    runs.create(out, experiment, made.facts)
    with checkpoint.opened(out / "diffusion" / "checkpoints", keep=1) as saved:
        checkpoint.save(saved, step, {"ema": params}, config=schema.to_dict(experiment))
    if (options.run / "classifier").is_dir():
        its = os.path.relpath(options.run / "classifier", out)  # so that the run may be moved
        (out / "classifier").symlink_to(its, target_is_directory=True)
    with replacing(out / "posthoc.json") as file:
        file.write(json.dumps(schema.to_dict(dataclasses.replace(options, step=step)), indent=2).encode())
    return out


def main(args: Sequence[str]) -> None:
    """Makes the run and says how to draw from it."""
    options = cli.parse(Reconstructing, "guided-jax posthoc", args, description=__doc__ or "")
    out = write(options)
    print(f"{out}: the average of sigma_rel {options.sigma_rel:g}; now draw: guided-jax sample {out} --help")
