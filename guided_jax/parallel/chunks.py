"""Functions of any number of examples, computed in chunks of one shape, so that they are compiled once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int


def chunk_size(count: int, batch_size: int, devices: Sequence[jax.Device]) -> int:
    """Return batch_size, or for fewer examples their `count` rounded up to a multiple of the number of devices."""
    return min(batch_size, -(-count // len(devices)) * len(devices))


def padded_chunks(count: int, chunk: int, start: int = 0) -> Iterator[tuple[Int[np.ndarray, " chunk"], slice]]:
    """Yield (indices, rows): the example indices start .. count - 1, `chunk` at a time, and the slice of them that is new.

    The last chunk is padded by repeating the last index, so a function of the indices is compiled once; rows leaves the
    repeated ones out.
    """
    for first in range(start, count, chunk):
        yield np.minimum(np.arange(first, first + chunk), count - 1), slice(min(chunk, count - first))


def map_in_chunks(
    fn: Callable[[Int[np.ndarray, " chunk"]], Any], count: int, chunk: int, start: int = 0
) -> Iterator[Any]:
    """Yield `fn(indices)` for `padded_chunks` of the example indices start .. count - 1.

    fn: returns a tree of arrays (chunk, ...). The last tree yielded may have fewer than `chunk` rows.
    """
    for indices, rows in padded_chunks(count, chunk, start):
        yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], fn(indices))
