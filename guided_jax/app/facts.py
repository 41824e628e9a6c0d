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
    largest absolute value of arrays and signals. labelling: one class an image; or several labels, of which there are
    num_classes, each with its share; or a vector of num_classes numbers, without shares; or a text.
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
    labelling: data.Labelling = "class"
    words: tuple[str, ...] | None = None
    """The vocabulary of the captions, where they are the condition."""

    @property
    def stored_label(self) -> tuple[type, tuple[int, ...]]:
        """The type and shape of the label of an example in a file of samples."""
        classes = () if self.labelling == "class" else (self.num_classes,)
        return np.float32 if self.labelling == "vector" else np.int64, classes

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
    kind: Kind = "pictures" if source.dtype == np.uint8 else "signals" if source.signals else "arrays"
    bound = None if kind == "pictures" else data.largest(source)
    return Facts(shape, classes, shares, len(source), names, kind, bound, source.labelling, source.words)


def of_json(saved: Any) -> Facts:
    """Return the facts that config.json holds; KeyError for one that is missing, TypeError for one that cannot be."""
    if not isinstance(saved, dict):
        raise TypeError(f"facts is {reprlib.repr(saved)}")
    shape, classes, shares = (saved[name] for name in Facts._fields[:3])
    examples, names, bound = (saved.get(name) for name in ("num_examples", "class_names", "bound"))
    kind, labelling = saved.get("kind", "pictures"), saved.get("labelling", "class")
    words = saved.get("words")
    right = {
        "image_shape": _all(int, shape, 3) and min(shape) > 0,
        "num_classes": type(classes) is int and classes > 0,
        "labelling": labelling in get_args(data.Labelling),
        "class_frequencies": _all((int, float), shares, 0 if labelling in ("vector", "text") else classes),
        "num_examples": examples is None or type(examples) is int,
        "class_names": names is None or _all(str, names, classes),
        "kind": kind in get_args(Kind),
        "words": words is None or (isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)),
        "bound": bound is None or isinstance(bound, (int, float)),
    }
    wrong = next((name for name, is_right in right.items() if not is_right), None)
    if wrong:
        raise TypeError(f"{wrong} is {reprlib.repr(saved[wrong])}")
    names = None if names is None else tuple(names)
    words = None if words is None else tuple(words)
    return Facts(tuple(shape), classes, tuple(shares), examples, names, kind, bound, labelling, words)


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


def count_labels(facts: Facts | data.Source) -> str:
    """Return how many labels there are, in words."""
    kinds = {
        "class": "{} classes",
        "labels": "{} labels at once",
        "vector": "vectors of {} numbers",
        "text": "captions",
    }
    return kinds[facts.labelling].format(facts.num_classes)


def describe_labels(source: data.Source) -> str | None:
    """Return a note where a number of the vectors that label a source is of an unusual size; None if none is."""
    if source.labelling != "vector":
        return None
    stds = np.nanstd(source.read_labels(np.arange(len(source))), axis=0)
    unusual = [f"number {i} has {std:.3g}" for i, std in enumerate(stds) if not 0.1 <= std <= 10]
    if not unusual:
        return None
    return f"note: networks learn best from labels of a standard deviation of about 1, {', '.join(unusual)}; scale them"


def check_classes(facts: Facts, what: str, instead: str) -> None:
    """Raise ValueError for a run whose images have several labels or a vector; what: needs one class each."""
    if facts.labelling != "class":
        raise ValueError(
            f"{what} needs one class for each picture, and here they have {count_labels(facts)}; {instead}"
        )


def check_pictures(facts: Facts, what: str) -> None:
    """Raise ValueError for a run of arrays or signals; what: takes pictures alone."""
    if facts.kind != "pictures":
        raise ValueError(
            f"{what} is for pictures, and this run is of {facts.kind}; evaluate its samples.npz by a program of your own"
        )


def zoom(facts: Facts) -> int:
    """Return how many times to enlarge a picture so that small ones can be looked at."""
    return max(1, 48 // facts.image_shape[0])
