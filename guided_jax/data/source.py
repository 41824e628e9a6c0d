"""From pictures as they were found, each of a size of its own, to a source of pictures of one shape, read by index."""

import concurrent.futures
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from guided_jax.data import pictures
from guided_jax.data.values import Labelling, checked, checked_labels

Batch = dict[str, np.ndarray]
Crop = Literal["centre", "random", "none"]
UINT8 = np.dtype(np.uint8)

# Pictures are read by so many threads: Pillow lets others run while it decodes and resizes.
THREADS = min(16, os.cpu_count() or 2)


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a data set whose examples have one shape and are read by index.

    `read(indices (B,))` returns {"image": (B, H, W, C), "label": int32 (B,)}; labels are 0 .. num_classes - 1. With the
    `labelling` "labels", several at once, labels are float32 (B, num_classes) of 0 and 1; with "vector" they are any such
    numbers, NaN where one is not known; with "text" they are what the captions became. Images are uint8 pictures, or, where
    `dtype` is float32, arrays in the network's own range, such as latents; `signals` are (length, 1, channels). With
    `random_crop` it takes a second argument, the draws (B, 3) of `pictures.random_crop`; without it crops are central.
    `labels(indices)` returns the labels alone, where that needs no pictures. `class_names` are in the order of the labels,
    None if unknown; `captions` are the texts of the examples, None where they have none, and `words` their vocabulary
    where the labelling is "text".
    """

    size: int
    image_shape: tuple[int, int, int]
    num_classes: int
    read: Callable[..., Batch]
    labels: Callable[[np.ndarray], np.ndarray] | None = None
    random_crop: bool = False
    class_names: tuple[str, ...] | None = None
    dtype: np.dtype = UINT8
    signals: bool = False
    labelling: Labelling = "class"
    captions: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.size

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels of `read`, without reading the pictures where that is possible."""
        return self.labels(indices) if self.labels else self.read(indices)["label"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled pictures as they were found, of any shapes.

    `open(indices (B,))` returns B pictures (h, w, c) of `dtype`, uint8 or float32, with their labels, or raises
    `pictures.Unreadable`. `labels(indices)` returns the labels alone. `name(index)` is what error messages call a picture.
    `shape` is given if all have the same. `refusal` is why some cannot be read, where that is known beforehand. `signals`,
    `labelling`, `captions`: as of `Source`.
    """

    size: int
    num_classes: int
    open: Callable[[np.ndarray], Sequence[tuple[np.ndarray, int]]]
    labels: Callable[[np.ndarray], np.ndarray]
    name: Callable[[int], str]
    shape: tuple[int, int, int] | None = None
    class_names: tuple[str, ...] | None = None
    dtype: np.dtype = UINT8
    refusal: str | None = None
    signals: bool = False
    labelling: Labelling = "class"
    captions: tuple[str, ...] | None = None


def in_memory(
    image: np.ndarray, label: np.ndarray, num_classes: int, class_names: tuple[str, ...] | None = None
) -> Source:
    """Return a source over arrays: images (N, H, W, C) and integer labels (N,), or as `checked_labels` returns them.

    Integers from 0 to 255 become uint8 pictures. Floats become float32 and stay as they are, in the network's own range:
    for pictures that is [-1, 1]. ValueError for other values, see `checked`.
    """
    image, label = checked(np.asarray(image), "the images"), np.asarray(label)
    labelling: Labelling = "class"
    if label.ndim > 1:
        labelling, label = checked_labels(label, "the labels")
    label = label.astype(np.int32 if labelling == "class" else np.float32)

    def read(rows):
        return {"image": image[rows], "label": label[rows]}

    return Source(
        len(image),
        image.shape[1:],
        num_classes,
        read,
        lambda rows: label[rows],
        class_names=class_names,
        dtype=image.dtype,
        labelling=labelling,
    )


def class_frequencies(source: Source) -> Float[np.ndarray, " num_classes"]:
    """Return the share of each class among the examples, (num_classes,), summing to one.

    Of several labels each it is the share of the examples with the label; of vectors and texts there is none, (0,).
    """
    if source.labelling in ("vector", "text"):
        return np.zeros(0)
    counts = np.zeros(source.num_classes)
    for start in range(0, len(source), 1024):
        rows = source.read_labels(np.arange(start, min(start + 1024, len(source))))
        counts += rows.sum(0) if source.labelling == "labels" else np.bincount(rows, minlength=source.num_classes)
    return counts / (len(source) if source.labelling == "labels" else counts.sum())


def caption_numbers(captions: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Return the number of each caption among the different ones, in the order in which they first come.

    >>> caption_numbers(["a cat", "a dog", "a cat"]).tolist()
    [0, 1, 0]
    """
    number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    return np.array([number[caption] for caption in captions], np.int32)


def largest(source: Source) -> float:
    """Return the largest absolute value of all examples."""
    parts = (np.arange(start, min(start + 1024, len(source))) for start in range(0, len(source), 1024))
    return max(float(np.abs(source.read(rows)["image"]).max()) for rows in parts)


def make_source(
    examples: Examples,
    image_size: int | tuple[int, int] | None = None,
    crop: Crop = "centre",
    channels: int | None = None,
    corrupt: Literal["refuse", "skip"] = "refuse",
    max_bytes: int = 2**28,
    background: int = 255,
) -> Source:
    """Return the examples as pictures of one shape.

    `image_size`, a side or (height, width) in pixels, is what `crop` cuts from each picture, "none" squeezing the whole
    into it; without it pictures stay as they are, and one of another shape than the first is refused by name. `channels` 1
    to 4 is what all are converted to, transparent ones over the grey value `background`, white by default. A damaged
    picture is refused by name when it is read, or, with corrupt="skip", all are read once at the start and the damaged ones
    left out, with one line in the log that counts them. Pictures whose crop is not random are made once and kept if all fit
    into `max_bytes` of memory. Float arrays stay as they are. ValueError for what does not fit together.
    """
    size = _as_pair(image_size)
    if examples.dtype != np.uint8:
        size, crop, channels = None, _check_floats(examples, size, crop, channels), None
    _check(size, crop, channels, background)
    if examples.refusal and corrupt != "skip":
        raise ValueError(examples.refusal)
    examples = _readable(examples) if corrupt == "skip" else examples
    if not examples.size:
        raise ValueError("there are no pictures in this split; choose another, or give more data")
    fit = functools.partial(_fit, size, crop, channels, background)
    shape = _shape(examples, fit, size, channels)

    def read(indices, draws=None):
        found = examples.open(indices)
        image = [fit(picture, None if draws is None else draws[i]) for i, (picture, _) in enumerate(found)]
        image = [_grey(picture) if shape[-1] == 1 else picture for picture in image]
        for index, picture in zip(indices, image, strict=True):
            if picture.shape != shape:
                raise ValueError(_shape_mismatch(examples.name(int(index)), picture.shape, shape))
        kind = np.int32 if examples.labelling == "class" else np.float32
        return {"image": np.stack(image), "label": np.asarray([label for _, label in found], kind)}

    is_random = crop == "random"
    names, dtype = examples.class_names, examples.dtype
    kept = is_random, names, dtype, examples.signals, examples.labelling, examples.captions
    source = Source(examples.size, shape, examples.num_classes, read, examples.labels, *kept)
    fits = examples.size * int(np.prod(shape)) * dtype.itemsize <= max_bytes
    return _read_into_memory(source) if fits and not is_random else source


def _as_pair(image_size):
    """Return image_size as (height, width); None stays None."""
    if image_size is None or isinstance(image_size, int):
        return None if image_size is None else (image_size, image_size)
    if len(image_size) != 2:
        raise ValueError(f"image_size is {image_size}; give one side in pixels, or height and width")
    return tuple(image_size)


def _check(size, crop, channels, background):
    if size is not None and min(size) < 1:
        shown = size[0] if size[0] == size[1] else size
        raise ValueError(f"image_size is {shown}; give the side of the pictures in pixels, at least 1")
    if crop == "random" and size is None:
        raise ValueError("a random crop has no size; give image_size")
    if channels not in (None, *pictures.MODES):
        raise ValueError(f"channels is {channels}; a picture has 1 to 4")
    if not 0 <= background <= 255:
        raise ValueError(f"background is {background}; give a grey value from 0 to 255")


def _check_floats(examples, size, crop, channels):
    """Return the crop of float arrays, which changes nothing; ValueError for a size or channels that are not theirs."""
    shape = examples.shape
    if crop == "random" or size not in (None, shape[:2]) or channels not in (None, shape[-1]):
        raise ValueError(
            f"float arrays are neither cropped nor converted, and these are {_words(shape)} (height, width, channels); "
            "leave out image_size, crop and channels"
        )
    return "centre"


def _fit(size, crop, channels, background, picture, draws=None):
    """Return a picture in its final form."""
    picture = picture if channels is None else pictures.with_channels(picture, channels, background)
    if size is None:
        return picture
    if crop == "none":
        return pictures.resize(picture, size)
    if draws is None:
        return pictures.centre_crop(picture, size)
    return pictures.random_crop(picture, size, draws[:3])


def _grey(picture):
    """Return one channel of a grey picture in three, as WebP stores it; any other picture as it is."""
    is_grey = picture.shape[-1] == 3 and picture.dtype == np.uint8 and (picture == picture[..., :1]).all()
    return picture[..., :1] if is_grey else picture


def _shape(examples, fit, size, channels):
    """Return the shape of every picture: the arguments', or else that of the first."""
    found = examples.shape or fit(examples.open(np.arange(1))[0][0]).shape
    height, width = found[:2] if size is None else size
    return height, width, found[-1] if channels is None else channels


def _shape_mismatch(name, shape, expected):
    return (
        f"{name} is {_words(shape)} (height, width, channels), the first picture is {_words(expected)}; "
        "give image_size or channels"
    )


def _words(shape):
    return " x ".join(map(str, shape))


def _in_threads(function, size):
    """Return its results for the rows 0 .. size - 1, given 256 at a time, in order."""
    parts = [np.arange(start, min(start + 256, size)) for start in range(0, size, 256)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, parts))


def _read_into_memory(source):
    """Return the source with everything read."""
    batches = _in_threads(source.read, len(source))
    image, label = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    whole = in_memory(image, label, source.num_classes, source.class_names)
    return dataclasses.replace(whole, signals=source.signals, labelling=source.labelling, captions=source.captions)


def subset(examples: Examples, rows: Int[np.ndarray, " n"]) -> Examples:
    """Return the examples of these rows, in this order."""
    return dataclasses.replace(
        examples,
        size=len(rows),
        open=lambda indices: examples.open(rows[indices]),
        labels=lambda indices: examples.labels(rows[indices]),
        name=lambda index: examples.name(int(rows[index])),
        captions=None if examples.captions is None else tuple(examples.captions[row] for row in rows),
    )


def _readable(examples):
    """Return the examples that can be read; one line of the log counts the others."""
    found = _in_threads(functools.partial(_unreadable, examples), examples.size)
    damaged = [pair for part in found for pair in part]
    if damaged:
        count = f"{len(damaged)} of {examples.size} pictures are skipped"
        logging.getLogger(__name__).warning("%s, the first: %s", count, damaged[0][1].partition(";")[0])
    return subset(examples, np.delete(np.arange(examples.size), [row for row, _ in damaged]))


def _unreadable(examples, rows):
    """Return [(row, what is wrong with it)]. Rows are read together and halved on an error: most have none."""
    try:
        examples.open(rows)
    except pictures.Unreadable as error:
        if len(rows) == 1:
            return [(int(rows[0]), str(error))]
        return [pair for half in np.array_split(rows, 2) for pair in _unreadable(examples, half)]
    return []
