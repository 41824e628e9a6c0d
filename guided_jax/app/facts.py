"""What the data of a run tells: sampling needs it and has no data."""

from typing import Any, Literal, NamedTuple

import numpy as np

from guided_jax import data

Kind = Literal["pictures", "arrays", "signals"]


class Facts(NamedTuple):
    """The shape of an image, and the conditions that there are: classes, numbered from 0, and their shares of the data.

    kind: pictures, which are uint8 in files and lie in [-1, 1] for the network; or float arrays, such as latents, which are
    drawn and stored as they are; or signals, float arrays (length, 1, channels), stored as (length, channels). bound: the
    largest absolute value of arrays and signals. labelling: one class an image; or several labels, of which there are
    num_classes, each with its share; or a vector of num_classes numbers, without shares.
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


def of_source(source: Any, frequencies: np.ndarray) -> Facts:
    """Return the facts of a data source, whose classes have these frequencies."""
    height, width, channels = (int(size) for size in source.image_shape)
    shares = tuple(float(share) for share in frequencies)
    kind: Kind = "pictures" if source.dtype == np.uint8 else "signals" if source.signals else "arrays"
    return Facts(
        (height, width, channels),
        int(source.num_classes),
        shares,
        len(source),
        source.class_names,
        kind,
        None if kind == "pictures" else data.largest(source),
        source.labelling,
    )


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
        saved.get("labelling", "class"),
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


def count_labels(facts: Facts) -> str:
    """Return how many labels there are, in words."""
    kinds = {"class": "{} classes", "labels": "{} labels at once", "vector": "vectors of {} numbers"}
    return kinds[facts.labelling].format(facts.num_classes)


def describe_labels(source: data.Source) -> str | None:
    """Return a note where a number of the vectors that label a source is of an unusual size; None if none is."""
    if source.labelling != "vector":
        return None
    labels = source.labels or (lambda rows: source.read(rows)["label"])
    stds = np.nanstd(labels(np.arange(len(source))), axis=0)
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
