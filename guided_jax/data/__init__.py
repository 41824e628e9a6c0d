"""Labelled images, from a name to batches: TensorFlow Datasets is the door, Grain the pipeline; TensorFlow is not
needed.

A new kind of data is one function `(split, data_dir) -> Source` and one row in `_SOURCES`.
"""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from guided_jax.images import from_uint8

Batch = dict[str, np.ndarray]

# A split whose images fit in this is decoded once and kept; a larger one is read when it is asked for.
IN_MEMORY_BYTES = 2**28

# Examples that a repeating loader goes through.
ENDLESS = 2**40


@dataclasses.dataclass(frozen=True)
class Source:
    """A split that is read by index.

    `read(indices (B,))` returns {"image": uint8 (B, H, W, C), "label": int32 (B,)}; labels are 0 .. num_classes - 1.
    """

    size: int
    image_shape: tuple[int, int, int]
    num_classes: int
    read: Callable[[np.ndarray], Batch]

    def __len__(self) -> int:
        return self.size


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's 1797 scans of handwritten digits as 8 x 8 x 1 uint8: 1437 to train with, 360 held out.

    Pixel v of 0..16 becomes 255 v / 16, halves rounded up. The split is stratified by digit and fixed.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # A Tensor feature: the Image feature needs TensorFlow to be written.
        features = {"image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)}
        features["label"] = tfds.features.ClassLabel(num_classes=10)
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits  # slow to import, and only needed to prepare
        from sklearn.model_selection import train_test_split

        values, labels = load_digits(return_X_y=True)
        images = ((values.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = train_test_split(np.arange(len(labels)), test_size=360, random_state=0, stratify=labels)
        splits = {"train": train, "test": test}
        return {name: self._generate_examples(images, labels, rows) for name, rows in splits.items()}

    def _generate_examples(self, images, labels, rows):
        for row in rows:
            yield int(row), {"image": images[row], "label": int(labels[row])}


def load(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """The split of a named data set, prepared at the first use.

    It is kept in `data_dir`, by default TensorFlow Datasets' own directory. Names: "digits", with the splits "train"
    (1437) and "test" (360, held out). Raises ValueError for an unknown name or split, OSError for a directory that
    cannot be written.
    """
    if name not in _SOURCES:
        raise ValueError(f"there is no data set called {name!r}; there is {', '.join(_SOURCES)}")
    return _SOURCES[name](split, data_dir)


def _digits(split: str, data_dir) -> Source:
    return _from_tfds(_prepared(Digits, data_dir), split)


_SOURCES: Mapping[str, Callable[..., Source]] = {"digits": _digits}


def _prepared(builder_class, data_dir):
    """The builder with its files in place. They appear by one rename: never half, and of two processes one wins."""
    make = functools.partial(
        builder_class, data_dir=data_dir and Path(data_dir).expanduser(), file_format="array_record"
    )
    builder = None
    try:
        builder = make()
        if not builder.data_path.exists():
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                builder.download_and_prepare()
    except OSError as error:
        if builder is None or not builder.data_path.exists():  # else another process was faster
            place = builder.data_path if builder else data_dir
            raise OSError(f"cannot prepare the data in {place}: {error.strerror or error}") from error
        builder = make()
    return builder


def _from_tfds(builder, split: str) -> Source:
    """A split with the features `image` (uint8) and `label`."""
    if split.partition("[")[0] not in builder.info.splits:
        raise ValueError(f"{builder.name} has no split {split!r}; it has {', '.join(sorted(builder.info.splits))}")
    records = builder.as_data_source(split=split)

    def read(indices):
        rows = records.__getitems__(np.asarray(indices).tolist())
        image, label = (np.stack([row[key] for row in rows]) for key in ("image", "label"))
        return {"image": image, "label": label.astype(np.int32)}

    shape, classes = builder.info.features["image"].shape, builder.info.features["label"].num_classes
    if len(records) * np.prod(shape) > IN_MEMORY_BYTES:
        return Source(len(records), shape, classes, read)
    return in_memory(**read(np.arange(len(records))), num_classes=classes)


def in_memory(image: np.ndarray, label: np.ndarray, num_classes: int) -> Source:
    """A source over arrays: images uint8 (N, H, W, C) and labels int (N,)."""
    image, label = np.asarray(image, np.uint8), np.asarray(label, np.int32)
    return Source(len(image), image.shape[1:], num_classes, lambda rows: {"image": image[rows], "label": label[rows]})


def loader(
    source: Source,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    repeat: bool = True,
    flip: bool = False,
    drop_remainder: bool = True,
    threads: int = 2,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """An endless (`repeat`) iterator over {"image": float32 (B, H, W, C) in [-1, 1], "label": int32 (B,)}.

    The order of an epoch depends on the seed and the number of the epoch, and so do the horizontal flips, made for half
    the images when `flip` is set. Without `repeat` it ends after one epoch, and `drop_remainder=False` keeps its short
    last batch. `get_state()` is a small JSON-able dict and `set_state()` returns to that batch. `prefetch` batches are
    read ahead. Raises ValueError when not one batch can be filled.
    """
    if not repeat and drop_remainder and len(source) < batch_size:
        raise ValueError(f"{len(source)} examples do not fill one batch of {batch_size}")
    examples = ENDLESS if repeat else len(source)
    number = examples // batch_size if drop_remainder else -(-examples // batch_size)
    rows = functools.partial(_rows, len(source), batch_size, seed if shuffle else None, repeat)
    batches = grain.MapDataset.range(number).seed(seed).map(rows).map(functools.partial(_decode, source.read))
    batches = batches.random_map(_flip) if flip else batches
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))


def _rows(size, batch_size, seed, repeat, number):
    """The examples of batch `number`. Grain's own shuffle goes index by index: 5 ms for a batch of 128, this 0.05."""
    position = np.arange(number * batch_size, (number + 1) * batch_size)
    position = position if repeat else position[position < size]
    epochs = range(position[0] // size, position[-1] // size + 1)
    return np.concatenate([_order(size, seed, epoch)[position[position // size == epoch] % size] for epoch in epochs])


@functools.lru_cache(maxsize=4)
def _order(size, seed, epoch):
    return np.arange(size) if seed is None else np.random.default_rng((seed, epoch)).permutation(size)


def _decode(read, indices):
    rows = read(indices)
    return {"image": from_uint8(rows["image"]), "label": rows["label"]}


def _flip(batch, rng):
    mirrored = rng.random(len(batch["label"])) < 0.5
    image = np.where(mirrored[:, None, None, None], batch["image"][:, :, ::-1], batch["image"])
    return {**batch, "image": image}


def class_frequencies(source: Source) -> Float[np.ndarray, " num_classes"]:
    """The share of each class among the examples, (num_classes,), summing to one."""
    counts = np.zeros(source.num_classes)
    for start in range(0, len(source), 1024):
        labels = source.read(np.arange(start, min(start + 1024, len(source))))["label"]
        counts += np.bincount(labels, minlength=source.num_classes)
    return counts / counts.sum()
