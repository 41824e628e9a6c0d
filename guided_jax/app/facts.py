"""What the data of a run tells: sampling needs it and has no data."""

import reprlib
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


def of_json(saved: Any) -> Facts:
    """Return the facts that config.json holds; KeyError for one that is missing, TypeError for one that cannot be."""
    if not isinstance(saved, dict):
        raise TypeError(f"facts is {reprlib.repr(saved)}")
    shape, classes, shares = (saved[name] for name in Facts._fields[:3])
    examples, names = (saved.get(name) for name in Facts._fields[3:])
    right = {
        "image_shape": _all(int, shape, 3) and min(shape) > 0,
        "num_classes": type(classes) is int and classes > 0,
        "class_frequencies": _all((int, float), shares, classes),
        "num_examples": examples is None or type(examples) is int,
        "class_names": names is None or _all(str, names, classes),
    }
    wrong = next((name for name, is_right in right.items() if not is_right), None)
    if wrong:
        raise TypeError(f"{wrong} is {reprlib.repr(saved[wrong])}")
    return Facts(tuple(shape), classes, tuple(shares), examples, None if names is None else tuple(names))


def _all(kind: Any, values: Any, count: int) -> bool:
    """Return whether this is a list of so many values of a type."""
    return isinstance(values, list | tuple) and len(values) == count and all(isinstance(each, kind) for each in values)


def zoom(facts: Facts) -> int:
    """Return how many times to enlarge a picture so that small ones can be looked at."""
    return max(1, 48 // facts.image_shape[0])
