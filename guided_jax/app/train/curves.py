"""Draw the curves of a run, and write its TensorBoard files, from its rows of metrics."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from guided_jax import parallel
from guided_jax.app import best_checkpoint, cli
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.storage import log, tensorboard

PAGE = """usage: guided-jax curves RUN

Draw the curves of a run again, and write its TensorBoard files, from its metrics.jsonl.

  guided-jax curves runs/digits
  tensorboard --logdir runs

  RUN    the folder that guided-jax train wrote; each network gets curves.png and an event file
"""
GRIDS = ("samples", "reconstructions")  # grids are files KIND-STEP.png
# Metric -> the panel of curves.png that it shares with others; those of no panel here have one of their own.
PANELS = {
    **dict.fromkeys(("samples_fd", "samples_fd_infinity"), "Fréchet distance of samples"),
    "samples_fd_dinov2": "FD-DINOv2 of samples",
    "samples_sfd": "Fréchet distance of samples, spatial",
    "samples_kid": "kernel distance of samples",
    **dict.fromkeys(("samples_precision", "samples_recall"), "precision, recall"),
    **dict.fromkeys(("samples_density", "samples_coverage"), "density, coverage"),
    "samples_accuracy": "class accuracy of samples",
    "samples_inception_score": "Inception Score of samples",
    "learning_rate": "learning rate",
    "mse": "mean square of the error",
    "held_out_mse": "mean square of the error",
    "psnr": "PSNR (dB)",
    "held_out_psnr": "PSNR (dB)",
    "kl": "Kullback-Leibler (nats per number of the picture)",
    "held_out_kl": "Kullback-Leibler (nats per number of the picture)",
    "grad_norm": "norm of the gradients",
    "update_norm": "norm of the update",
    "param_norm": "norm of the parameters",
}


def make_hook(directory: Path, write_events: bool) -> Callable[..., None]:
    """Return the hook (steps done, state=None) that writes curves.png and the event file of one network.

    The first call writes the event file anew, since a killed run may have written later steps; the next ones append. A
    second call at the same step does nothing, and of several processes the first alone writes.
    """
    written: list[int] = []

    def save_curves(done: int, state: Any = None) -> None:
        rows = log.read(directory / "metrics.jsonl") if parallel.primary() else []
        if not rows or done in written:
            return
        log.plot(directory / "metrics.jsonl", directory / "curves.png", PANELS)
        if write_events:
            save_events(directory, rows, done, max(written, default=None))
        written.append(done)

    return save_curves


def save_events(directory: Path, rows: Sequence[dict[str, Any]], until: int, after: int | None = None) -> None:
    """Write the event file of one network: its rows and grids up to step `until`, those after `after` appended."""
    found = [(*path.stem.rpartition("-")[::2], path) for kind in GRIDS for path in directory.glob(f"{kind}-*.png")]
    grids = [(int(step), kind, path) for kind, step, path in found if step.isdigit()]
    pictures = [tensorboard.Picture(step, f"{kind}/grid", path) for step, kind, path in grids if step <= until]
    tagged = [{tag(name): value for name, value in row.items()} for row in rows if row["step"] <= until]
    tensorboard.write(directory / tensorboard.NAME, tagged, pictures, after)


def tag(name: str) -> str:
    """Return TensorBoard's tag, samples_fd -> samples/fd: it shows together what has the same prefix."""
    kinds = "|".join(kind.rstrip("_") for kind in (best_checkpoint.SAMPLES, best_checkpoint.HELD_OUT))
    found = re.fullmatch(f"({kinds})_(.*)", name)
    return "/".join(found.groups()) if found else name if name == "step" else f"training/{name}"


@dataclasses.dataclass(frozen=True)
class Curves:
    """Draw the curves and write the event files of a run again, from its metrics.jsonl."""

    run: tyro.conf.Positional[Path]
    """The folder that guided-jax train wrote."""


def main(args: Sequence[str]) -> None:
    """Write curves.png and the event file of every network that has rows."""
    options = cli.parse(Curves, "guided-jax curves", args, description=PAGE)
    runs.load(options.run)
    for part in schema.TRAINED:
        directory = options.run / part
        if rows := log.read(directory / "metrics.jsonl"):
            make_hook(directory, write_events=True)(rows[-1]["step"])
            print(f"{directory / 'curves.png'} and {directory / tensorboard.NAME}: {len(rows)} rows")
