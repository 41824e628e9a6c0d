"""Splits of data: the fixed division of data that comes undivided, and the error for a split that is not there."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int

from guided_jax.data.source import Examples, subset


class MissingSplit(ValueError):
    """Error for a split that data does not have, as against data that cannot be read."""


def held_out(labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return which examples of undivided data are held out: the 10th, 20th, ... of each class, in order."""
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order])
    held = np.zeros(len(labels), bool)
    held[order] = (np.arange(len(labels)) - firsts) % 10 == 9
    return held


def missing_split(what: object, split: str, there: Iterable[str]) -> MissingSplit:
    """Return the error for a split that a data set does not have."""
    return MissingSplit(f"{what} has no split {split!r}; it has {', '.join(there)}")


def divide(examples: Examples, split: str, what: str) -> Examples:
    """Return one side of the division by `held_out`, "train" or "test"; `MissingSplit` for another, and for an empty one.

    what: what the message calls the data.
    """
    if split not in ("train", "test"):
        raise missing_split(what, split, ("test", "train"))
    labels = examples.labels(np.arange(examples.size))
    held = held_out(labels if labels.ndim == 1 else np.zeros(len(labels), int))  # every tenth of all
    if split == "test" and not held.any():
        raise MissingSplit(
            f"no class of {what} has the ten pictures of which one would be held out; give more, divide them into train "
            "and test yourself, or do without held-out data"
        )
    return subset(examples, np.flatnonzero(held if split == "test" else ~held))
