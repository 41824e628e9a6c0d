"""How often a noised picture retrieves its own name among all names, by noise level: how much a noised CLIP sees."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Num

from guided_jax import parallel
from guided_jax.metrics.alignment import Retrieval, retrieval


def retrieval_by_level(
    embed: Callable[[Array, Array, Array], Array],
    pictures: Num[np.ndarray, "n h w c"],
    text_features: Num[np.ndarray, "m d"],
    labels: Int[np.ndarray, " n"],
    positions: Sequence[int],
    key: Key[Array, ""],
    devices: Sequence[jax.Device],
    batch_size: int,
    k: Sequence[int] = (1, 5),
) -> dict[int, dict[int, Retrieval]]:
    """Return {position: {k: `Retrieval`}}, shares with their standard errors.

    embed: (key, picture, position) -> embedding (d,) of one picture, to which it adds noise drawn by the key: of the level
    at this position of a table. Arrays that it closes over, such as weights, are placed on every device.
    pictures: as embed takes them. text_features: of all names, each once. labels: the number of each picture's name.
    positions: 0 is clean. A picture has the same key at every level, so that levels can be compared in pairs.
    batch_size: pictures at a time, over the devices; the network is compiled once.
    The errors are those of `retrieval`.

    >>> embed = lambda key, picture, position: picture.reshape(-1) + 0.1 * position * jax.random.normal(key, (4,))
    >>> pictures = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    >>> found = retrieval_by_level(
    ...     embed, pictures, np.eye(4), np.arange(4), (0, 1), jax.random.key(0), jax.devices()[:1], 4)
    >>> {position: each[1].score.mean for position, each in found.items()}
    {0: 1.0, 1: 1.0}
    """

    def one(key, index, picture, position):
        return jnp.ravel(embed(jax.random.fold_in(key, index), picture, position)).astype(jnp.float32)

    size = parallel.chunk_size(len(pictures), batch_size, devices)
    mapped = parallel.parallel_map(one, devices, in_axes=(None, 0, 0, None))

    def features(position: int) -> np.ndarray:
        def of(rows):
            return mapped(key, rows, pictures[rows], np.int32(position))

        return np.concatenate(list(parallel.map_in_chunks(of, len(pictures), size)))

    return {position: retrieval(features(position), text_features, labels, k) for position in positions}
