"""What the data of a run tells: sampling needs it and has no data."""

from typing import Any, Literal, NamedTuple

import numpy as np

from guided_jax import data

Kind = Literal["pictures", "arrays", "signals"]


class Facts(NamedTuple):
    """The shape of an image, and the conditions that there are: classes, numbered from 0, and their shares of the data.

    kind: pictures, which are uint8 in files and lie in [-1, 1] for the network; or float arrays, such as latents, which are
    drawn and stored as they are; or signals, float arrays (length, 1, channels), stored as (length, channels). bound: the
    largest absolute value of arrays and signals.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    class_frequencies: tuple[float, ...]
    num_examples: int | None = None
    """None in runs that began before it was written down."""
    class_names: tuple[str, ...] | None = None
    """In the order of their numbers; None where the data has none, and in runs that began before they were written down."""
    kind: Kind = "pictures"
    bound: float | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of an example in a file of samples."""
        length, _, channels = self.image_shape
        return (length, channels) if self.kind == "signals" else self.image_shape


def of_source(source: Any, frequencies: np.ndarray) -> Facts:
    """Return the facts of a data source, whose classes have these frequencies."""
    height, width, channels = (int(size) for size in source.image_shape)
    shares = tuple(float(share) for share in frequencies)
    shape, classes, names = (height, width, channels), int(source.num_classes), source.class_names
    if source.dtype == np.uint8:
        return Facts(shape, classes, shares, len(source), names)
    kind: Kind = "signals" if source.signals else "arrays"
    return Facts(shape, classes, shares, len(source), names, kind, data.largest(source))


def of_json(saved: dict[str, Any]) -> Facts:
    """Return the facts that config.json holds."""
    height, width, channels = saved["image_shape"]
    return Facts(
        (height, width, channels),
        saved["num_classes"],
        tuple(saved["class_frequencies"]),
        saved.get("num_examples"),
        tuple(saved["class_names"]) if saved.get("class_names") else None,
        saved.get("kind", "pictures"),
        saved.get("bound"),
    )


def describe(facts: Facts) -> str | None:
    """Return what arrays or signals are trained on, with a note on their scale where it is unusual; None for pictures."""
    if facts.kind == "pictures" or facts.bound is None:
        return None
    shape = " x ".join(map(str, facts.stored_shape))
    axes = "length x channels" if facts.kind == "signals" else "height x width x channels"
    what = (
        f"training on {facts.num_examples} {facts.kind} of {shape} ({axes}), of absolute values up to {facts.bound:.3g}"
    )
    usual = 0.3 <= facts.bound <= 30
    return what if usual else f"{what}\nnote: networks learn best what has a standard deviation of about 1; scale them"


def check_pictures(facts: Facts, what: str) -> None:
    """Raise ValueError for a run of arrays or signals; what: takes pictures alone."""
    if facts.kind != "pictures":
        raise ValueError(
            f"{what} is for pictures, and this run is of {facts.kind}; evaluate its samples.npz by a program of your own"
        )


def zoom(facts: Facts) -> int:
    """Return how many times to enlarge a picture so that small ones can be looked at."""
    return max(1, 48 // facts.image_shape[0])
