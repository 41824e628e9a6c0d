"""The checkpoints of the networks of a run that was trained here: where they are, how far they go, and their weights."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from guided_jax.app import best_checkpoint, config_file, settings
from guided_jax.storage import checkpoint

Which = Literal["last", "best"]  # of the checkpoints of a network


def load_weights(
    directory: Path, experiment: settings.Experiment, part: str, sharding: Any = None, which: Which = "last"
) -> Any:
    """Return the averaged parameters of a network: those of `run.params`, which has its errors."""
    place, own = home(directory, experiment, part)
    step = None if which == "last" else step_of(directory, experiment, part, which)
    if which == "best" and step is None and checkpoint.latest(checkpoints(place, part)) is not None:
        raise ValueError(f"{place} has no {part} checkpoint with {own.keep_best_by}; leave out --checkpoint best")
    with trained(place, part):
        return checkpoint.load_params(checkpoints(place, part), "ema", step, sharding)


@contextlib.contextmanager
def trained(directory: Path, part: str) -> Iterator[None]:
    """Raise ValueError when the network has no checkpoint."""
    try:
        yield
    except FileNotFoundError:
        raise untrained(directory, part) from None


def untrained(directory: Path, part: str) -> ValueError:
    """Return the error for a network without a checkpoint."""
    return ValueError(f"{directory} has no trained {part} network; train it with --{part}.num-steps above 0")


def step_of(directory: Path, experiment: settings.Experiment, part: str, which: Which) -> int | None:
    """Return the step of the last or the best checkpoint of a network, None where there is none."""
    place, own = home(directory, experiment, part)
    if which == "last":
        return checkpoint.latest(checkpoints(place, part))
    return checkpoint.best(checkpoints(place, part), own.keep_best_by, best_checkpoint.highest(own.keep_best_by))


def steps(directory: Path | None, experiment: settings.Experiment, which: Which) -> dict[str, int | None]:
    """Return how far each network was trained; None for one that there is not."""
    return {part: step_of(directory, experiment, part, which) for part in settings.PARTS} if directory else {}


def checkpoints(directory: Path, part: str) -> Path:
    """Return the folder of the checkpoints of a network."""
    return directory / part / "checkpoints"


def home(directory: Path, experiment: settings.Experiment, part: str) -> tuple[Path, Any]:
    """Return where that network was trained, and with which settings.

    A diffusion model may have been adopted from another run, which may have adopted it in its turn.
    """
    source = experiment.diffusion.from_run
    if part != "diffusion" or source is None or source == directory.absolute():
        return directory, getattr(experiment, part)
    return home(source, config_file.experiment_of(source), part)
