"""Pictures to be measured, wherever they are: in an npz file, or in a data set."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from guided_jax import data
from guided_jax.metrics import classes
from guided_jax.metrics.features import Extractor
from guided_jax.metrics.files import open_pictures
from guided_jax.metrics.summary import Summary, summarize


class PictureSet(NamedTuple):
    """`chunks(n)` yields uint8 (n, H, W, C), the last one perhaps fewer. shape: (H, W, C). Labels below 0: unknown."""

    name: str
    size: int
    shape: tuple[int, ...]
    labels: Int[np.ndarray, " n"] | None
    chunks: Callable[[int], Iterator[UInt8[np.ndarray, "_ h w c"]]]

    def said(self) -> str:
        """In words, with the balance of the labels."""
        return (
            f"{self.name}: {self.size} pictures of {' x '.join(map(str, self.shape))}, {classes.balance(self.labels)}"
        )


def from_file(path: str | os.PathLike) -> PictureSet | None:
    """The pictures of an npz file, None if it has none; errors as of `files.open_pictures`."""
    found = open_pictures(path)
    return None if found is None else PictureSet(str(path), *found[1:], found.chunks)


def from_arrays(
    name: str, pictures: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"] | None = None
) -> PictureSet:
    """Those that are in memory."""
    chunks = lambda size: (pictures[start : start + size] for start in range(0, len(pictures), size))  # noqa: E731
    return PictureSet(name, len(pictures), pictures.shape[1:], labels, chunks)


def from_source(name: str, source: data.Source, rows: Int[np.ndarray, " n"] | None = None) -> PictureSet:
    """Those of a data set, or only the given rows of it."""
    rows = np.arange(len(source)) if rows is None else rows
    labels = source.labels or (lambda rows: source.read(rows)["label"])

    def chunks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size):
            yield source.read(rows[start : start + size])["image"]

    return PictureSet(name, len(rows), source.image_shape, labels(rows), chunks)


def summary_of(extract: Extractor, pictures: PictureSet, batch_size: int, quiet: bool = False) -> Summary:
    """The summary of all pictures, read `batch_size` at a time, under a progress bar unless `quiet`."""
    with tqdm(total=pictures.size, desc=pictures.name, unit="image", disable=quiet) as bar:

        def counted():
            for chunk in extract(pictures.chunks(batch_size)):
                yield chunk
                bar.update(len(chunk.pool))

        return summarize(counted(), pictures.labels)


def judged(summary: Summary) -> dict[str, float]:
    """{"accuracy"} over the pictures whose label is known, nothing where none is."""
    if summary.logits is None or summary.labels is None or not (summary.labels >= 0).any():
        return {}
    known = summary.labels >= 0
    return {"accuracy": classes.accuracy(summary.logits[known], summary.labels[known])}
