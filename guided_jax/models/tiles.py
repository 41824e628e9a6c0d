"""A network applied to a large picture in the memory of a small one: tile by tile, with overlaps that are blended.

    y = sum over tiles of w(tile) network(x of the tile)        sum over tiles of w = 1 at every position

In an overlap the weight of a tile rises linearly from its edge, as that of its neighbour falls. It is not the network of
the whole picture: norms and attention see one tile. Tiles that hold all that matters for a position differ little.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree


class Tile(NamedTuple):
    """Where a tile starts in x and in y, (row, column), and its weights along the height and the width of y."""

    starts: Any
    y_starts: Any
    weights: Any


class Axis(NamedTuple):
    """The tiles along one axis: where each starts in x and in y, and its weights, (tiles, positions of y in a tile)."""

    starts: Int[np.ndarray, " tiles"]
    y_starts: Int[np.ndarray, " tiles"]
    weights: Float[np.ndarray, "tiles positions"]


def apply_in_tiles(
    network: Callable[[Array], PyTree], x: Float[Array, "*batch h w c"], side: int, overlap: float | int = 0.25
) -> PyTree:
    """Return network(x), by tiles of at most side x side positions of x one after the other, each blended with the next.

    network: x -> an array (*batch, f h, f w, c2), or a pytree of them, for every h and w with the same fraction f: a
    decoder, or an encoder, whose f is below 1. side: where it is no less than h and w, this is network(x) itself. overlap:
    the least share of a tile that its neighbour covers too, from 0 to below 1. The gradient computes each tile again.
    ValueError for other values, and for a side that the network does not take.

    >>> double = lambda x: jnp.repeat(jnp.repeat(x, 2, -3), 2, -2)
    >>> x = jnp.arange(24.0).reshape(4, 6, 1)
    >>> bool(jnp.allclose(apply_in_tiles(double, x, 3), double(x)))
    True
    """
    if not (isinstance(side, int) and side > 0 and 0 <= overlap < 1):
        raise ValueError(f"tiles of side {side} with overlap {overlap}: give a positive side and an overlap in [0, 1).")
    size = x.shape[-3:-1]
    tile = tuple(min(side, length) for length in size)
    if tile == size:
        return network(x)
    whole, part = (
        jax.eval_shape(network, jax.ShapeDtypeStruct((*x.shape[:-3], *each, x.shape[-1]), x.dtype))
        for each in (size, tile)
    )
    factor = find_factor(size, whole, tile, part)
    rows, columns = (place(*each, overlap, factor) for each in zip(size, tile, strict=True))
    pairs = [
        Tile(*zip(row, column, strict=True)) for row in zip(*rows, strict=True) for column in zip(*columns, strict=True)
    ]
    every = jax.tree.map(lambda *each: np.stack(each), *pairs)
    canvas = jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), whole)
    return jax.lax.scan(lambda canvas, each: (add_tile(network, x, tile, canvas, each), None), canvas, every)[0]


def add_tile(
    network: Callable[[Array], PyTree],
    x: Float[Array, "*batch h w c"],
    size: tuple[int, ...],
    canvas: PyTree,
    tile: Tile,
) -> PyTree:
    """Return the `canvas` with the weighted output of `network` added for one `tile` of x, of this `size`."""
    weights = jnp.outer(*tile.weights)

    def add(canvas: Array, y: Array) -> Array:
        scaled = y * weights.astype(y.dtype).reshape((1,) * (y.ndim - 3) + (*weights.shape, 1))
        start = [0] * (y.ndim - 3) + [*tile.y_starts, 0]
        return jax.lax.dynamic_update_slice(canvas, cut(canvas, tile.y_starts, y.shape[-3:-1]) + scaled, start)

    return jax.tree.map(add, canvas, jax.checkpoint(network)(cut(x, tile.starts, size)))


def cut(x: Float[Array, "*batch h w c"], corner: Any, size: tuple[int, ...]) -> Array:
    """Return the `size` = (height, width) positions of x from `corner`, (row, column), traced or not."""
    for axis, start, length in zip((-3, -2), corner, size, strict=True):
        x = jax.lax.dynamic_slice_in_dim(x, start, length, axis)
    return x


def find_factor(size: tuple[int, ...], whole: PyTree, tile: tuple[int, ...], part: PyTree) -> Fraction:
    """Return the height of a network's outputs, shapes `whole` of a picture's `size` and `part` of a tile's, over its own.

    ValueError unless that of every width and height of both is the same.
    """
    both = [(x, y.shape[-3:-1]) for x, outputs in ((size, whole), (tile, part)) for y in jax.tree.leaves(outputs)]
    found = {Fraction(y, x) for lengths in both for x, y in zip(*lengths, strict=True)}
    if len(found) != 1:
        raise ValueError(
            f"the network makes {both[0][1]} positions of {size}, and {both[-1][1]} of a tile of {tile}: choose another "
            "side, of which it makes the same share."
        )
    return found.pop()


def place(length: int, tile: int, overlap: float | int, factor: Fraction) -> Axis:
    """Return the tiles of `tile` positions that cover `length`, evenly spaced at least by the `overlap`.

    factor: of the positions of y for each of x. All tiles start at whole positions of both.
    """
    unit = factor.denominator
    count = 1 + math.ceil((length - tile) / (tile * (1 - overlap)))
    starts = np.floor(np.linspace(0, (length - tile) / unit, count)).astype(int) * unit
    y_starts, positions = (starts * factor.numerator) // unit, int(tile * factor)
    inside = np.arange(positions) + 0.5
    shared = positions - np.diff(y_starts)  # of a tile and the next
    rise = np.stack([np.ones(positions), *(np.minimum(inside / max(each, 0.5), 1) for each in shared)])
    fall = np.stack([*(np.minimum(inside[::-1] / max(each, 0.5), 1) for each in shared), np.ones(positions)])
    weights = np.minimum(rise, fall)
    total = np.zeros(int(length * factor))
    where = y_starts[:, None] + np.arange(positions)
    np.add.at(total, where, weights)
    return Axis(starts, y_starts, (weights / total[where]).astype(np.float32))
