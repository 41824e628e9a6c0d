"""Which checkpoint of a network is its best: by the metric that `keep_best_by` names, and whether more of it is better."""

import re
from collections.abc import Collection
from typing import Any

from guided_jax.metrics import evaluation

MEASURED = "samples_"  # before the names of what is measured of samples
HELD_OUT = "held_out_"
QUARTERS = ("", *(f"_q{q}" for q in (1, 2, 3, 4)))


def highest(metric: str) -> bool:
    """Whether the most of it is the best: of accuracies, precision and the like, not of losses and distances."""
    return re.sub(rf"^({MEASURED}|{HELD_OUT})|_q[1-4]$", "", metric) in evaluation.HIGHER


def held_out(part: str, settings: Any) -> set[str]:
    """The metrics that a network is given on held-out data, by the names of its rows."""
    names = {"diffusion": ("loss",), "classifier": ("loss", "accuracy")}[part] if settings.eval_every else ()
    return {f"{HELD_OUT}{name}{quarter}" for name in names for quarter in QUARTERS}


def check(part: str, settings: Any, measured: Collection[str]) -> None:
    """ValueError for a `keep_best_by` that no checkpoint of the network will have."""
    metric, option = settings.keep_best_by, f"--{part}.keep-best-by"
    usual = metric == type(settings)().keep_best_by  # which then keeps none, without held-out data
    if not settings.keep_best or usual:
        return
    on_held_out = metric in held_out(part, settings)
    if not on_held_out and metric not in measured:
        there = sorted(held_out(part, settings)) + sorted(measured)
        raise ValueError(
            f"{option} is {metric}, which this run never measures; there is {', '.join(there) or 'nothing'}"
        )
    every = settings.eval_every if on_held_out else settings.measure_every
    at_every_checkpoint = (
        on_held_out and settings.checkpoint_every % every == 0
    )  # cheap, so often more often than saved
    if every % settings.checkpoint_every and not at_every_checkpoint:
        raise ValueError(
            f"{option} {metric} chooses among checkpoints, and it is measured every {every} steps; "
            f"give a multiple of --{part}.checkpoint-every, which is {settings.checkpoint_every}"
        )
