"""From pictures as they were found, each of a size of its own, to a source of equal ones that is read by index."""

import concurrent.futures
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from guided_jax.data import pictures

Batch = dict[str, np.ndarray]
Crop = Literal["centre", "random", "none"]

# At once, in threads: Pillow lets others run while it decodes and resizes.
THREADS = min(16, os.cpu_count() or 2)


@dataclasses.dataclass(frozen=True)
class Source:
    """A split that is read by index.

    `read(indices (B,))` returns {"image": uint8 (B, H, W, C), "label": int32 (B,)}; labels are 0 .. num_classes - 1.
    With `random_crop` it takes a second argument, the draws (B, 3) of `pictures.random_crop`; without it crops are
    central. `labels(indices)` are the labels alone, where they can be had without the pictures.
    """

    size: int
    image_shape: tuple[int, int, int]
    num_classes: int
    read: Callable[..., Batch]
    labels: Callable[[np.ndarray], np.ndarray] | None = None
    random_crop: bool = False

    def __len__(self) -> int:
        return self.size


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled pictures as they were found, before they are made equal.

    `open(indices (B,))` returns B pictures uint8 (h, w, c) with their labels, or raises `pictures.Unreadable`.
    `labels(indices)` are the labels alone. `name(index)` is what messages call a picture. `shape` is given if all have
    the same.
    """

    size: int
    num_classes: int
    open: Callable[[np.ndarray], Sequence[tuple[np.ndarray, int]]]
    labels: Callable[[np.ndarray], np.ndarray]
    name: Callable[[int], str]
    shape: tuple[int, int, int] | None = None


def in_memory(image: np.ndarray, label: np.ndarray, num_classes: int) -> Source:
    """A source over arrays: images uint8 (N, H, W, C) and labels int (N,)."""
    image, label = np.asarray(image, np.uint8), np.asarray(label, np.int32)

    def read(rows):
        return {"image": image[rows], "label": label[rows]}

    return Source(len(image), image.shape[1:], num_classes, read, labels=lambda rows: label[rows])


def class_frequencies(source: Source) -> Float[np.ndarray, " num_classes"]:
    """The share of each class among the examples, (num_classes,), summing to one."""
    labels = source.labels or (lambda rows: source.read(rows)["label"])
    counts = np.zeros(source.num_classes)
    for start in range(0, len(source), 1024):
        counts += np.bincount(labels(np.arange(start, min(start + 1024, len(source)))), minlength=source.num_classes)
    return counts / counts.sum()


def equal(
    examples: Examples,
    image_size: int | None = None,
    crop: Crop = "centre",
    channels: int | None = None,
    corrupt: Literal["refuse", "skip"] = "refuse",
    keep_bytes: int = 2**28,
) -> Source:
    """The examples as pictures of one shape.

    `image_size` is the side of the square that `crop` cuts from each, "none" squeezing the whole into it; without it
    pictures stay as they are, and one of another shape than the first is refused by name. `channels` 1 to 4 is what all
    are converted to. A damaged picture is refused by name when it is read, or, with "skip", all are read once at the
    start and the damaged ones left out, with one line that counts them. Pictures whose crop is not random are made once
    and kept if all fit in `keep_bytes`.
    """
    _check(image_size, crop, channels)
    examples = _readable(examples) if corrupt == "skip" else examples
    if not examples.size:
        raise ValueError("there are no pictures in this split; choose another, or give more data")
    made = functools.partial(_made, image_size, crop, channels)
    shape = _shape(examples, made, image_size, channels)

    def read(indices, draws=None):
        found = examples.open(indices)
        image = [made(picture, None if draws is None else draws[i]) for i, (picture, _) in enumerate(found)]
        for index, picture in zip(indices, image, strict=True):
            if picture.shape != shape:
                raise ValueError(_odd_one_out(examples.name(int(index)), picture.shape, shape))
        return {"image": np.stack(image), "label": np.asarray([label for _, label in found], np.int32)}

    source = Source(examples.size, shape, examples.num_classes, read, examples.labels, crop == "random")
    fits = examples.size * int(np.prod(shape)) <= keep_bytes
    return _kept(source) if fits and not source.random_crop else source


def _check(image_size, crop, channels):
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; give the side of the pictures in pixels, at least 1")
    if crop == "random" and image_size is None:
        raise ValueError("a random crop has no size; give image_size (--data.image-size)")
    if channels not in (None, *pictures.MODES):
        raise ValueError(f"a picture has 1 to 4 channels, {channels} are asked for")


def _made(image_size, crop, channels, picture, draws=None):
    """A picture in its final form."""
    picture = picture if channels is None else pictures.with_channels(picture, channels)
    if image_size is None:
        return picture
    if crop == "none":
        return pictures.resize(picture, image_size)
    if draws is None:
        return pictures.centre_crop(picture, image_size)
    return pictures.random_crop(picture, image_size, draws[:3])


def _shape(examples, made, image_size, channels):
    """The shape of every picture: by what is asked for, or else that of the first."""
    found = examples.shape or made(examples.open(np.arange(1))[0][0]).shape
    height, width = found[:2] if image_size is None else (image_size, image_size)
    return height, width, found[-1] if channels is None else channels


def _odd_one_out(name, shape, expected):
    found, others = (" x ".join(str(side) for side in sides) for sides in (shape, expected))
    return (
        f"{name} is {found} (height, width, channels), the first picture is {others}; "
        "give image_size (--data.image-size) or channels (--data.channels rgb)"
    )


def _in_threads(function, size):
    """Its results for the rows 0 .. size - 1, given 256 at a time, in order."""
    parts = [np.arange(start, min(start + 256, size)) for start in range(0, size, 256)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, parts))


def _kept(source):
    """The source with everything read."""
    batches = _in_threads(source.read, len(source))
    image, label = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    return in_memory(image, label, source.num_classes)


def subset(examples: Examples, rows: Int[np.ndarray, " n"]) -> Examples:
    """The examples of these rows, in this order."""
    return dataclasses.replace(
        examples,
        size=len(rows),
        open=lambda indices: examples.open(rows[indices]),
        labels=lambda indices: examples.labels(rows[indices]),
        name=lambda index: examples.name(int(rows[index])),
    )


def _readable(examples):
    """Those that can be read; one line says how many cannot."""
    found = _in_threads(functools.partial(_damaged, examples), examples.size)
    damaged = [pair for part in found for pair in part]
    if damaged:
        count = f"{len(damaged)} of {examples.size} pictures are skipped"
        logging.getLogger(__name__).warning("%s, the first: %s", count, damaged[0][1].partition(";")[0])
    return subset(examples, np.delete(np.arange(examples.size), [row for row, _ in damaged]))


def _damaged(examples, rows):
    """[(row, what is wrong with it)], by halves: most rows are read in company, which is faster."""
    try:
        examples.open(rows)
    except pictures.Unreadable as error:
        if len(rows) == 1:
            return [(int(rows[0]), str(error))]
        return [pair for half in np.array_split(rows, 2) for pair in _damaged(examples, half)]
    return []


def held_out(labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The fixed division of data that comes undivided: the 10th, 20th, ... of each class, in order, are held out."""
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order])
    held = np.zeros(len(labels), bool)
    held[order] = (np.arange(len(labels)) - firsts) % 10 == 9
    return held


def no_split(what: object, split: str, there: Iterable[str]) -> ValueError:
    """What is said when a data set has no such split."""
    return ValueError(
        f"{what} has no split {split!r}; it has {', '.join(there)} (--data.split and --data.held-out choose)"
    )


def divide(examples: Examples, split: str, what: str) -> Examples:
    """One side of that division, "train" or "test"; ValueError for another split, and for an empty one."""
    if split not in ("train", "test"):
        raise no_split(what, split, ("test", "train"))
    held = held_out(examples.labels(np.arange(examples.size)))
    if split == "test" and not held.any():
        raise ValueError(
            f"no class of {what} has the ten pictures of which one would be held out; give more, divide them into train "
            "and test yourself, or do without (--diffusion.eval-every 0 --classifier.eval-every 0)"
        )
    return subset(examples, np.flatnonzero(held if split == "test" else ~held))
