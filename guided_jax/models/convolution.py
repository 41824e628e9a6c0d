"""A convolution whose input gradient stays on the fast path of the CPU backend inside `lax.scan`.

    y = x * k        dL/dx = dL/dy * flip(k)^T,        written as a plain convolution

XLA turns the gradient of a convolution into a convolution with a reversed kernel; within a loop its CPU backend has no
fast routine for that form and becomes many times slower. Classifier guidance takes such a gradient at every sampling
step, so the reversed, in/out-swapped kernel is made here as an array of its own. Accelerators keep XLA's own form.

The price is forward-mode differentiation: `jvp`, `jacfwd` and `linearize` refuse a `custom_vjp` (use `vjp` or
`jacrev`, or the networks' field `plain_convolution=True`). Gradients of gradients in reverse mode work.
"""

import functools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")

# Numbers of a cotangent, 1 MiB in float32; and how many parts at most, each of which is one more convolution to compile.
PART = 2**18
MOST_PARTS = 8


def conv_general_dilated(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "kh kw c o"],
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = LAYOUT,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "n h2 w2 o"]:
    """y[n, i, j, o] = sum_{a, b, c} lhs[n, s i + a - pad, s j + b - pad, c] rhs[a, b, c, o], any stride s.

    The arguments are those of `jax.lax.conv_general_dilated`, so that `flax.linen.Conv(conv_general_dilated=...)`
    takes it. ValueError for what it does not do: dilation, feature groups, another layout than NHWC, HWIO.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ()))) and feature_group_count == 1
    if not plain or numbers != lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT):
        raise ValueError("the fast convolution does no dilation, no groups and only NHWC: use plain_convolution=True.")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _convolve(lhs, rhs, tuple(window_strides), pads, precision)


def _plain(x, kernel, strides, pads, precision):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=LAYOUT, precision=precision)


_convolve = jax.custom_vjp(_plain, nondiff_argnums=(2, 3, 4))


def _forward(x, kernel, strides, pads, precision):
    return _convolve(x, kernel, strides, pads, precision), (x, kernel)


def _backward(strides, pads, precision, residuals, cotangent):
    x, kernel = residuals
    static = {"strides": strides, "pads": pads, "precision": precision}
    fast = partial(_input_gradient, size=x.shape[1:3], **static)
    own = partial(_transposed_input_gradient, shape=x.shape, dtype=x.dtype, **static)
    to_x = lax.platform_dependent(cotangent, kernel, cpu=fast, default=own)
    # A switch of its own: a caller that wants only the input gradient has it removed as dead code.
    weights = partial(_kernel_gradient, shape=kernel.shape, dtype=kernel.dtype, **static)
    to_kernel = lax.platform_dependent(x, cotangent, cpu=partial(_by_parts, weights), default=weights)
    return to_x, to_kernel


_convolve.defvjp(_forward, _backward)


def _kernel_gradient(x, cotangent, *, shape, dtype, strides, pads, precision):
    kernel = jax.ShapeDtypeStruct(shape, dtype)
    (to_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, strides, pads, precision), kernel)(cotangent)
    return to_kernel


def _by_parts(gradient, x, cotangent):
    """The sum of `gradient` over parts of the examples, the cotangent of each small enough to stay in a core's cache.

    XLA makes of a kernel's gradient one product over all positions of all examples, and takes the cotangent anew for each
    of its rows: at 32x32 the parts are 1.7 times as fast with 64 channels, 3.5 times with 128.
    """
    count, each = len(x), math.prod(cotangent.shape[1:])
    size = max(1, PART // each, -(-count // MOST_PARTS))
    parts = [gradient(x[i : i + size], cotangent[i : i + size]) for i in range(0, count, size)]
    return functools.reduce(jnp.add, parts) if parts else gradient(x, cotangent)


def _input_gradient(cotangent, kernel, *, size, strides, pads, precision):
    """A stride-1 convolution with the flipped kernel, of the cotangent with stride - 1 zeros between its entries."""
    flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    flipped = lax.optimization_barrier(flipped)  # or XLA folds the flip back into the slow form
    both = []
    for n, m, k, s, (low, _) in zip(size, cotangent.shape[1:3], kernel.shape[:2], strides, pads, strict=True):
        before = k - 1 - low
        both.append((before, n - (m - 1) * s - 1 + k - 1 - before))  # so that the size of the input comes back
    return lax.conv_general_dilated(cotangent, flipped, (1, 1), both, strides, None, LAYOUT, precision=precision)


def _transposed_input_gradient(cotangent, kernel, *, shape, dtype, strides, pads, precision):
    x = jax.ShapeDtypeStruct(shape, dtype)
    (to_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, strides, pads, precision), x)(cotangent)
    return to_x
