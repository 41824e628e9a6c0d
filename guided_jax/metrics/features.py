"""From pictures to features, on all devices: any function of one picture is a feature function."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from guided_jax import parallel


class Features(NamedTuple):
    """What is seen in one picture, or, with a leading axis, in several.

    pool (d,): what distances and neighbours are measured in. spatial (s,): the same before positions were averaged away,
    for sFID. logits (k,): of a classifier, for the Inception Score and the accuracy. Absent ones are None.
    """

    pool: Any
    spatial: Any = None
    logits: Any = None


FeatureFunction = Callable[[UInt8[Array, "h w c"]], Any]  # a picture -> Features, or the vector `pool` alone


def pixels(picture: UInt8[Array, "h w c"]) -> Features:
    """The picture itself, 0 to 1: for small pictures, or where nothing else is there. It sees no meaning."""
    return Features(picture.reshape(-1).astype(jnp.float32) / 255)


Chunks = Iterable[UInt8[np.ndarray, "_ h w c"]]
Extractor = Callable[[Chunks], Iterator[Features]]


def extractor(function: FeatureFunction, devices: Sequence[jax.Device], batch_size: int) -> Extractor:
    """(chunks of pictures) -> their float32 features, chunk by chunk, in order, in constant memory; compiled once.

    function: image (H, W, C) uint8 -> `Features` or a vector; what it closes over, such as weights, is placed on every
    device. A chunk is worked on `batch_size` pictures at a time, a multiple of the number of devices; the last ones are
    padded. Depends on batch_size / devices, by rounding, and not on the number of devices.
    """

    def one(picture):
        found = function(picture)
        found = found if isinstance(found, Features) else Features(found)
        return jax.tree.map(lambda leaf: jnp.ravel(leaf).astype(jnp.float32), found)

    compiled = parallel.parallel_map(one, devices, in_axes=(0,))

    def extract(chunks: Chunks) -> Iterator[Features]:
        for chunk in chunks:
            yield from parallel.map_in_chunks(functools.partial(_rows, compiled, chunk), len(chunk), batch_size)

    return extract


def _rows(compiled, chunk, rows):
    return compiled(chunk[rows])
