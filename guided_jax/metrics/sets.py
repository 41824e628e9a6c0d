"""Sets of pictures in one form, whether they lie in an npz file, in memory or in a data set."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from guided_jax import data, parallel, progress
from guided_jax.metrics import classes
from guided_jax.metrics.features import Extractor
from guided_jax.metrics.files import open_pictures
from guided_jax.metrics.summary import Summary, summarize


class PictureSet(NamedTuple):
    """Pictures that are read in chunks: `chunks(n)` yields uint8 (n, H, W, C), the last one perhaps fewer.

    name: for messages. shape: (H, W, C). labels: below 0 where a picture has none, None where none has one.
    """

    name: str
    size: int
    shape: tuple[int, ...]
    labels: Int[np.ndarray, " n"] | None
    chunks: Callable[[int], Iterator[UInt8[np.ndarray, "_ h w c"]]]

    def describe(self) -> str:
        """Return the name, number and shape of the pictures and the balance of their labels, in words."""
        return f"{self.name}: {self.size} pictures of {self.describe_shape()}, {classes.balance(self.labels)}"

    def describe_shape(self) -> str:
        """Return the shape of a picture in words."""
        return " x ".join(map(str, self.shape))


def from_file(path: str | os.PathLike) -> PictureSet | None:
    """Return the pictures of an npz file, None if it has none; errors as of `files.open_pictures`."""
    found = open_pictures(path)
    return None if found is None else PictureSet(str(path), *found[1:], found.chunks)


def from_arrays(
    name: str, pictures: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"] | None = None
) -> PictureSet:
    """Return pictures that are in memory."""
    chunks = lambda size: (pictures[start : start + size] for start in range(0, len(pictures), size))  # noqa: E731
    return PictureSet(name, len(pictures), pictures.shape[1:], labels, chunks)


def from_source(name: str, source: data.Source, rows: Int[np.ndarray, " n"] | None = None) -> PictureSet:
    """Return the pictures of a data set, or only the given rows of it. ValueError for a data set of float arrays."""
    if source.dtype != np.uint8:
        raise ValueError(
            f"{name} holds {source.dtype} arrays and metrics take uint8 pictures; decode them and save those"
        )
    rows = np.arange(len(source)) if rows is None else rows
    labels = source.read_labels(rows) if source.labelling == "class" else None

    def chunks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size):
            yield source.read(rows[start : start + size])["image"]

    return PictureSet(name, len(rows), source.image_shape, labels, chunks)


def summary_of(extract: Extractor, pictures: PictureSet, batch_size: int, quiet: bool = False) -> Summary:
    """Return the summary of all pictures, read `batch_size` at a time, under a progress bar unless `quiet`."""
    with progress.bar(pictures.size, pictures.name, "image", disable=quiet or not parallel.primary()) as bar:

        def features():
            for chunk in extract(pictures.chunks(batch_size)):
                yield chunk
                bar.update(len(chunk.pool))

        return summarize(features(), pictures.labels)


def accuracy(summary: Summary) -> dict[str, float]:
    """Return {"accuracy": ...} over the pictures that have a label, {} where none has one or there are no logits."""
    if summary.logits is None or summary.labels is None or not (summary.labels >= 0).any():
        return {}
    labelled = summary.labels >= 0
    return {"accuracy": classes.accuracy(summary.logits[labelled], summary.labels[labelled])}
