"""Features of pictures, computed on all devices by any function of one picture."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from guided_jax import parallel


class Features(NamedTuple):
    """The features of one picture, or, with a leading axis, of several.

    pool (d,): for distances and neighbours. spatial (s,): the same before the average over positions, for sFID. logits
    (k,): of a classifier, for the Inception Score and the accuracy. Absent ones are None.
    """

    pool: Any
    spatial: Any = None
    logits: Any = None


# Values of a picture that pixel features take at most: a covariance of half a GB in float64.
MAX_PIXELS = 8192

FeatureFunction = Callable[[UInt8[Array, "h w c"]], Any]  # a picture -> Features, or the vector `pool` alone


def pixels(picture: UInt8[Array, "h w c"]) -> Features:
    """Return the pixels themselves, 0 to 1: a rough measure for small pictures, blind to their content.

    ValueError for a picture of more than `MAX_PIXELS` values: the covariance has their number squared.
    """
    size = math.prod(picture.shape)
    if size > MAX_PIXELS:
        raise ValueError(
            f"pixel features of pictures of {' x '.join(map(str, picture.shape))} are {size} numbers, and their covariance "
            f"would take {8 * size**2 / 1e9:.1f} GB; shrink the pictures, or measure in features of a judge or of Inception"
        )
    return Features(picture.reshape(-1).astype(jnp.float32) / 255)


Chunks = Iterable[np.ndarray]  # of pictures, uint8 (_, H, W, C)
Extractor = Callable[[Chunks], Iterator[Features]]


def extractor(function: FeatureFunction, devices: Sequence[jax.Device], batch_size: int) -> Extractor:
    """Return a function from chunks of pictures to their float32 features, in order, in constant memory, compiled once.

    function: image (H, W, C) uint8 -> `Features` or a vector, or the same of a row of token ids. Arrays that it closes
    over, such as weights, are placed on every device. batch_size: pictures at a time, a multiple of the number of devices;
    the last ones are padded. The result depends on batch_size / devices, by rounding, and not on the number of devices.
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
