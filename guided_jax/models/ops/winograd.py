"""A 3x3 convolution with a quarter of the multiplications, in float32: Winograd's minimal filtering F(4x4, 3x3).

    y = A^T [(G k G^T) . (B^T d B)] A        for every tile d of 6x6 inputs and its 4x4 outputs

The products of a tile and a kernel, summed over the channels, are 36 products of matrices, (tiles, c) by (c, o), where
the definition has 9 of sixteen times as many rows. What is saved is spent in part on the transforms, which write more
than twice the picture, a part of the examples at a time to bound what they take.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", equation (8) and section 4.3. The
points are not theirs, 0, +-1, +-2: with +-2/3, +-3/2 the rounding error is half of theirs, twice that of the definition
(the trade is that of Alam et al. 2022, "Winograd Convolution for Deep Neural Networks: Efficient Point Selection").
"""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TILE = 4  # outputs of a tile along each axis
POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))  # and infinity

# The examples are divided into parts: numbers in the tiles of a part, 8 MiB; and the most parts, each compiled separately.
PART = 2**21
MOST_PARTS = 4
# Where it is faster (measured): channels, tiles, and the share of the tiles' outputs that are used.
FEWEST_CHANNELS = 32
FEWEST_TILES = 24
LEAST_USED = 0.7

Pads = tuple[tuple[int, int], ...]  # (before, after) of the height, then of the width


def matrices(points: tuple[Fraction, ...] = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T (m, n), G (n, 3), B^T (n, n), n = m + 2, of y = A^T [(G k) . (B^T d)], y_i = sum_a d_{i+a} k_a; fractions.

    points: n - 1 different numbers; the last of the n is infinity. Source: the Toom-Cook construction, transposed.
    """
    n = len(points) + 1
    m = n - 2
    others = [[p for p in points if p is not q] for q in points]
    a = [[q**i for q in points] + [Fraction(i == m - 1)] for i in range(m)]
    g = [[q**i / math.prod(q - p for p in rest) for i in range(3)] for q, rest in zip(points, others, strict=True)]
    b = [[*_coefficients(rest), Fraction(0)] for rest in others] + [_coefficients(points)]
    return np.array(a), np.array([*g, [Fraction(0), Fraction(0), Fraction(1)]]), np.array(b)


def _coefficients(roots):
    """Return the coefficients of the product of (z - r), the constant first."""
    found = [Fraction(1)]
    for r in roots:
        found = [low - r * high for low, high in zip([0, *found], [*found, 0], strict=True)]
    return found


# A^T, G and B^T of the formula.
A, G, B = (matrix.astype(np.float64) for matrix in matrices())
STEP = len(B)  # inputs of a tile along each axis

# The kernel backwards takes the value q^2 k(1/q) at a point q. The points are each other's reciprocals, 0 and infinity too,
# so its transform has the same rows in another order, times a factor each; both go to the other two matrices.
BACKWARDS = [5, 3, 4, 1, 2, 0]
FACTORS = np.sum(G[:, ::-1] * G[BACKWARDS], 1) / np.sum(G[BACKWARDS] ** 2, 1)
A_BACKWARDS, B_BACKWARDS = (A * FACTORS)[:, BACKWARDS], B[BACKWARDS]


def suits(size: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Return whether it can be faster for pictures of this size and a kernel of this shape, (3, 3, c, o); on CPU only."""
    used = math.prod(size) / (math.prod(_tiles(size)) * TILE**2 or 1)
    return jax.default_backend() == "cpu" and min(kernel[2:]) >= FEWEST_CHANNELS and used >= LEAST_USED


def pays(count: int, size: tuple[int, ...]) -> bool:
    """Return whether it is faster for `count` pictures of this size."""
    return count > 1 and count * math.prod(_tiles(size)) >= FEWEST_TILES


def transform(kernel: Float[Array, "3 3 c o"]) -> Float[Array, "36 c o"]:
    """G k G^T, four times as large as k."""
    return _both(G, kernel.reshape(9, -1)).reshape(STEP**2, *kernel.shape[2:])


def convolve(x: Float[Array, "n h w c"], transformed: Float[Array, "36 c o"], pads: Pads) -> Float[Array, "n h2 w2 o"]:
    """y[n, i, j, o] = sum_{a, b, c} x[n, i + a - pad, j + b - pad, c] k[a, b, c, o], by F(4x4, 3x3)."""
    return _filter(x, transformed, pads, A, B, 1)


def input_gradient(
    cotangent: Float[Array, "n h2 w2 o"], transformed: Float[Array, "36 c o"], pads: Pads
) -> Float[Array, "n h w c"]:
    """dL/dx of `convolve`: the same with the kernel backwards and its channels exchanged."""
    pads = tuple((2 - low, 2 - high) for low, high in pads)
    return _filter(cotangent, transformed, pads, A_BACKWARDS, B_BACKWARDS, 2)


def kernel_gradient(
    x: Float[Array, "n h w c"], cotangent: Float[Array, "n h2 w2 o"], pads: Pads
) -> Float[Array, "3 3 c o"]:
    """dL/dk of `convolve`: the transposed transforms around products over the tiles."""
    size, channels = cotangent.shape[1:3], (x.shape[-1], cotangent.shape[-1])

    def products(part):
        tiles, over = _inputs(x[part], size, pads, B), _cotangents(cotangent[part], size)
        return lax.dot_general(tiles, over, (((1,), (1,)), ((0,), (0,))))

    total = functools.reduce(jnp.add, [products(part) for part in _parts(len(x), size, max(channels))])
    return _both(G.T, total.reshape(STEP**2, -1)).reshape(3, 3, *channels)


def _filter(x, transformed, pads, a, b, contracted):
    size = _size(x.shape, pads)

    def part(x):
        products = lax.dot_general(_inputs(x, size, pads, b), transformed, (((2,), (contracted,)), ((0,), (0,))))
        return _outputs(products, len(x), size, a)

    return jnp.concatenate([part(x[i]) for i in _parts(len(x), size, max(transformed.shape[1:]))])


def _size(x, pads):
    """Return the size of the output."""
    return tuple(n + sum(pad) - 2 for n, pad in zip(x[1:3], pads, strict=True))


def _tiles(size):
    return [-(-n // TILE) for n in size]


def _parts(count, size, channels):
    """Return slices of the examples whose tiles have at most `PART` numbers; larger ones if that makes too many parts."""
    most = max(1, PART // (STEP**2 * math.prod(_tiles(size)) * channels))
    each = -(-count // min(MOST_PARTS, -(-count // most)))  # equal parts, but for the last
    return [slice(i, i + each) for i in range(0, count, each)]


def _both(matrix, x):
    """M x M^T, x as (rows * columns, any): one product with the small matrix M (x) M."""
    return jnp.asarray(np.kron(matrix, matrix), x.dtype) @ x


def _mix(matrix, parts):
    """Return sum_k matrix[i, k] parts[k] for each row i, without the terms multiplied by 0."""
    rows = [[float(m) * part for m, part in zip(row, parts, strict=True) if m] for row in matrix]
    return [functools.reduce(jnp.add, row) for row in rows]


def _inputs(x, size, pads, b):
    """B^T d B of every tile, (36, tiles, c). Sums, not a product: the tiles overlap, and gathering them costs more."""
    down, across = _tiles(size)
    ends = [TILE * count + 2 - low - n for count, (low, _), n in zip((down, across), pads, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), (pads[0][0], ends[0]), (pads[1][0], ends[1]), (0, 0)))
    rows = jnp.stack(_mix(b, [x[:, i : i + TILE * down - 3 : TILE] for i in range(STEP)]))
    both = _mix(b, [rows[:, :, :, i : i + TILE * across - 3 : TILE] for i in range(STEP)])
    return jnp.stack(both, 1).reshape(STEP**2, -1, x.shape[-1])


def _outputs(products, count, size, a):
    """A^T m A of every tile's products, put together and cut to `size`."""
    down, across = _tiles(size)
    y = _both(a, products.reshape(STEP**2, -1)).reshape(TILE, TILE, count, down, across, -1)
    return jnp.moveaxis(y, (0, 1), (2, 4)).reshape(count, TILE * down, TILE * across, -1)[:, : size[0], : size[1]]


def _cotangents(y, size):
    """A y A^T of every tile, (36, tiles, o): the transpose of `_outputs`."""
    down, across = _tiles(size)
    y = jnp.pad(y, ((0, 0), (0, TILE * down - size[0]), (0, TILE * across - size[1]), (0, 0)))
    y = jnp.moveaxis(y.reshape(len(y), down, TILE, across, TILE, -1), (2, 4), (0, 1))
    return _both(A.T, y.reshape(TILE**2, -1)).reshape(STEP**2, -1, y.shape[-1])
