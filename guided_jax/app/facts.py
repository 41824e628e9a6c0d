"""What the data of a run tells: sampling needs it and has no data."""

import reprlib
from typing import Any, Literal, NamedTuple, get_args

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


def of_source(source: data.Source) -> Facts:
    """Return the facts of a data source; the labels of all its examples are read."""
    height, width, channels = (int(size) for size in source.image_shape)
    shares = tuple(float(share) for share in data.class_frequencies(source))
    shape, classes, names = (height, width, channels), int(source.num_classes), source.class_names
    if source.dtype == np.uint8:
        return Facts(shape, classes, shares, len(source), names)
    kind: Kind = "signals" if source.signals else "arrays"
    return Facts(shape, classes, shares, len(source), names, kind, data.largest(source))


def of_json(saved: Any) -> Facts:
    """Return the facts that config.json holds; KeyError for one that is missing, TypeError for one that cannot be."""
    if not isinstance(saved, dict):
        raise TypeError(f"facts is {reprlib.repr(saved)}")
    shape, classes, shares = (saved[name] for name in Facts._fields[:3])
    examples, names, bound = (saved.get(name) for name in ("num_examples", "class_names", "bound"))
    kind = saved.get("kind", "pictures")
    right = {
        "image_shape": _all(int, shape, 3) and min(shape) > 0,
        "num_classes": type(classes) is int and classes > 0,
        "class_frequencies": _all((int, float), shares, classes),
        "num_examples": examples is None or type(examples) is int,
        "class_names": names is None or _all(str, names, classes),
        "kind": kind in get_args(Kind),
        "bound": bound is None or isinstance(bound, (int, float)),
    }
    wrong = next((name for name, is_right in right.items() if not is_right), None)
    if wrong:
        raise TypeError(f"{wrong} is {reprlib.repr(saved[wrong])}")
    names = None if names is None else tuple(names)
    return Facts(tuple(shape), classes, tuple(shares), examples, names, kind, bound)


def _all(kind: Any, values: Any, count: int) -> bool:
    """Return whether this is a list of so many values of a type."""
    return isinstance(values, list | tuple) and len(values) == count and all(isinstance(each, kind) for each in values)


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
