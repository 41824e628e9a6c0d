"""Functions of any number of examples, computed in chunks of one shape, so that they are compiled once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int


def chunk_size(count: int, batch_size: int, devices: Sequence[jax.Device]) -> int:
    """Return batch_size, or for fewer examples their `count` rounded up to a multiple of the number of devices."""
    return min(batch_size, -(-count // len(devices)) * len(devices))


def map_in_chunks(
    fn: Callable[[Int[np.ndarray, " chunk"]], Any], count: int, chunk: int, start: int = 0
) -> Iterator[Any]:
    """Yield `fn(indices)` for the example indices start .. count - 1, `chunk` at a time, always with the same shape.

    The last chunk is padded by repeating the last index and trimmed afterwards, so `fn`, which returns a tree of arrays
    (chunk, ...), is compiled once. The last tree yielded may have fewer than `chunk` rows.
    """
    for first in range(start, count, chunk):
        rows = min(chunk, count - first)
        indices = np.minimum(np.arange(first, first + chunk), count - 1)
        yield jax.tree.map(lambda leaf, rows=rows: leaf[:rows], fn(indices))
