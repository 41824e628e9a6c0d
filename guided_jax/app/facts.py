"""What the data of a run tells: sampling needs it and has no data."""

from typing import Any, NamedTuple

import numpy as np


class Facts(NamedTuple):
    """The shape of an image, and the conditions that there are: classes, numbered from 0, and their shares of the data."""

    image_shape: tuple[int, int, int]
    num_classes: int
    class_frequencies: tuple[float, ...]
    num_examples: int | None = None
    """None in runs that began before it was written down."""
    class_names: tuple[str, ...] | None = None
    """In the order of their numbers; None where the data has none, and in runs that began before they were written down."""


def of_source(source: Any, frequencies: np.ndarray) -> Facts:
    """Return the facts of a data source, whose classes have these frequencies."""
    height, width, channels = (int(size) for size in source.image_shape)
    shares = tuple(float(share) for share in frequencies)
    return Facts((height, width, channels), int(source.num_classes), shares, len(source), source.class_names)


def of_json(saved: dict[str, Any]) -> Facts:
    """Return the facts that config.json holds."""
    height, width, channels = saved["image_shape"]
    return Facts(
        (height, width, channels),
        saved["num_classes"],
        tuple(saved["class_frequencies"]),
        saved.get("num_examples"),
        tuple(saved["class_names"]) if saved.get("class_names") else None,
    )


def zoom(facts: Facts) -> int:
    """Return how many times to enlarge a picture so that small ones can be looked at."""
    return max(1, 48 // facts.image_shape[0])
