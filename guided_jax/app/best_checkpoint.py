"""The best checkpoint of a network: by the metric that `keep_best_by` names, lowest or highest."""

import math
import re
from collections.abc import Collection
from typing import Any

from guided_jax.metrics import evaluation

SAMPLES = "samples_"  # prefix of the metrics of samples
HELD_OUT = "held_out_"  # prefix of the metrics on held-out data
QUARTERS = ("", *(f"_q{q}" for q in (1, 2, 3, 4)))


def highest(metric: str) -> bool:
    """Return whether higher is better: for accuracies, precision and the like, not for losses and distances."""
    return re.sub(rf"^({SAMPLES}|{HELD_OUT})|_q[1-4]$", "", metric) in evaluation.HIGHER


def held_out_metrics(part: str, settings: Any) -> set[str]:
    """Return the names of the held-out metrics of a network, as its rows have them."""
    if not settings.eval_every:
        return set()
    if part == "autoencoder":
        return {f"{HELD_OUT}{name}" for name in ("loss", "reconstruction", "kl", "mse", "psnr")}
    names = {"diffusion": ("loss",), "classifier": ("loss", "accuracy")}[part]
    return {f"{HELD_OUT}{name}{quarter}" for name in names for quarter in QUARTERS}


def check(part: str, settings: Any, sample_metrics: Collection[str]) -> None:
    """Raise ValueError for a `keep_best_by` that no checkpoint of the network will have.

    sample_metrics: the names of the metrics of samples, such as samples_fd. The default, held_out_loss, is accepted in any
    case: without held-out metrics no best checkpoint is kept, and `note` reports cadences that rarely coincide.
    """
    metric, option = settings.keep_best_by, f"--{part}.keep-best-by"
    if not settings.keep_best or metric == type(settings)().keep_best_by:
        return
    available = held_out_metrics(part, settings) | set(sample_metrics)
    if metric not in available:
        raise ValueError(
            f"{option} is {metric}, which this run never measures; there is {', '.join(sorted(available)) or 'nothing'}"
        )
    every = _every(settings)
    coincide = every % settings.checkpoint_every == 0 or (
        metric in held_out_metrics(part, settings) and settings.checkpoint_every % every == 0
    )
    if not coincide:
        raise ValueError(
            f"{option} {metric} chooses among checkpoints, and it is measured every {every} steps; "
            f"give a multiple of --{part}.checkpoint-every, which is {settings.checkpoint_every}"
        )


def note(part: str, settings: Any) -> str | None:
    """Return a sentence when only some checkpoints are evaluated, so that the best is chosen among few; else None."""
    if not (settings.keep_best and settings.num_steps):
        return None
    every = _every(settings)
    if not every or settings.checkpoint_every % every == 0:
        return None
    both = math.lcm(every, settings.checkpoint_every)
    where = f"every {both} steps and the last" if both < settings.num_steps else "the last step alone"
    return (
        f"note: the best {part} checkpoint is chosen among those with {settings.keep_best_by}: {where} "
        f"(checkpoints every {settings.checkpoint_every} steps, the metric every {every})"
    )


def _every(settings: Any) -> int:
    """Return how many steps apart the metric is measured; 0 for never."""
    return settings.measure_every if settings.keep_best_by.startswith(SAMPLES) else settings.eval_every
