"""A convolution, its gradients and theirs, each in the form that is fastest on the CPU backend, also inside `lax.scan`.

    y = x * k        dL/dx = dL/dy * flip(k)^T        dL/dk = x^T * dL/dy

are the derivatives of one function that is linear in each of x, k and dL/dy; so the derivatives of each are the other
two, and each is written once. On CPU, 3x3 kernels in float32 are computed by `winograd` where that is faster. The rest,
and everything on accelerators, is XLA's own, but for two forms for which its CPU backend has no fast routine: the input's
gradient, which XLA makes a convolution with a reversed kernel, many times slower within a loop (classifier guidance
takes it at every sampling step), and the kernel's gradient of many examples at once.

The price is forward-mode differentiation: `jvp`, `jacfwd` and `linearize` refuse a `custom_vjp` (use `vjp` or
`jacrev`, or the networks' field `plain_convolution=True`). Gradients of gradients in reverse mode work.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from guided_jax.models.ops import winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")

# Numbers of a cotangent, 1 MiB in float32; and how many parts at most, each of which is one more convolution to compile.
PART = 2**18
MOST_PARTS = 8


class Spec(NamedTuple):
    """The parameters of a convolution: y[i] = sum_a x[stride i + a - low] k[a] along each axis."""

    size: tuple[int, ...]  # of x, (height, width)
    window: tuple[int, ...]  # of the kernel
    strides: tuple[int, ...]
    pads: winograd.Pads
    precision: Any
    suited: bool  # whether `winograd` can compute it


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
    transformed: Float[Array, "36 c o"] | None = None,
) -> Float[Array, "n h2 w2 o"]:
    """y[n, i, j, o] = sum_{a, b, c} lhs[n, s i + a - pad, s j + b - pad, c] rhs[a, b, c, o], any stride s.

    The arguments are those of `jax.lax.conv_general_dilated`, so that `flax.linen.Conv(conv_general_dilated=...)`
    takes it. transformed: `winograd.transform(rhs)`, computed if not given. ValueError for
    dilation, feature groups and layouts other than NHWC, HWIO.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ()))) and feature_group_count == 1
    if not plain or numbers != lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT):
        raise ValueError(
            "the fast convolution has no dilation, no groups and only the layout NHWC: use plain_convolution=True."
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    suited = suits(lhs, rhs, tuple(window_strides), pads, precision)
    spec = Spec(lhs.shape[1:3], rhs.shape[:2], tuple(window_strides), pads, precision, suited)
    return _convolution(lhs, rhs, transformed if suited else None, spec)


def suits(x: Any, kernel: Any, strides: Any, pads: winograd.Pads, precision: Any = None) -> bool:
    """Return whether `winograd` can compute it, by shapes and types alone; not with a precision, which XLA honours."""
    threes = strides == (1, 1) and kernel.shape[:2] == (3, 3) and all(0 <= pad <= 2 for both in pads for pad in both)
    whole = x.dtype == kernel.dtype == jnp.float32 and precision is None
    return threes and whole and winograd.suits(x.shape[1:3], kernel.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _convolution(x, kernel, transformed, spec):
    """y. transformed: `winograd.transform(kernel)` or None; no derivative is taken with respect to it."""
    own = partial(_plain, spec=spec)
    return _of_whole_batch(spec, own, partial(winograd.convolve, pads=spec.pads), x, kernel, transformed)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _input_gradient(cotangent, kernel, transformed, spec):
    """dL/dx of `_convolution` at a cotangent of its output."""
    fast, transposed = partial(_as_convolution, spec=spec), partial(_transposed, spec=spec)
    own = partial(lax.platform_dependent, cpu=fast, default=transposed)
    return _of_whole_batch(spec, own, partial(winograd.input_gradient, pads=spec.pads), cotangent, kernel, transformed)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x, cotangent, spec):
    """dL/dk of `_convolution`."""
    if spec.suited and winograd.pays(len(x), spec.size):
        return winograd.kernel_gradient(x, cotangent, spec.pads)
    weights = partial(_of_kernel, spec=spec)
    return lax.platform_dependent(x, cotangent, cpu=partial(_by_parts, weights), default=weights)


def _convolution_forward(x, kernel, transformed, spec):
    return _convolution(x, kernel, transformed, spec), (x, kernel, transformed)


def _convolution_backward(spec, saved, cotangent):
    x, kernel, transformed = saved
    to_x = _input_gradient(cotangent, kernel, transformed, spec)
    return to_x, _kernel_gradient(x, cotangent, spec), None


def _input_gradient_forward(cotangent, kernel, transformed, spec):
    return _input_gradient(cotangent, kernel, transformed, spec), (cotangent, kernel, transformed)


def _input_gradient_backward(spec, saved, x):
    cotangent, kernel, transformed = saved
    return _convolution(x, kernel, transformed, spec), _kernel_gradient(x, cotangent, spec), None


def _kernel_gradient_forward(x, cotangent, spec):
    return _kernel_gradient(x, cotangent, spec), (x, cotangent)


def _kernel_gradient_backward(spec, saved, kernel):
    x, cotangent = saved
    return _input_gradient(cotangent, kernel, None, spec), _convolution(x, kernel, None, spec)


_convolution.defvjp(_convolution_forward, _convolution_backward)
_input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)
_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def _of_whole_batch(spec: Spec, own: Callable, fast: Callable, x: Array, kernel: Array, transformed: Any) -> Array:
    """Return fast(x, transformed) if that is faster for the batch with all axes that `vmap` adds, else own(x, kernel)."""
    if not spec.suited:
        return own(x, kernel)

    @custom_vmap
    def call(x, kernel, transformed):
        if not winograd.pays(len(x), spec.size):
            return own(x, kernel)
        return fast(x, winograd.transform(kernel) if transformed is None else transformed)

    @call.def_vmap
    def rule(size, batched, x, kernel, transformed):
        if any(jax.tree.leaves(batched[1:])):  # each example has its own kernel
            return jax.vmap(own, [0 if each else None for each in batched[:2]], axis_size=size)(x, kernel), True
        y = call(x.reshape(-1, *x.shape[2:]), kernel, transformed)
        return y.reshape(*x.shape[:2], *y.shape[1:]), True

    return call(x, kernel, transformed)


def _plain(x, kernel, spec):
    return lax.conv_general_dilated(
        x, kernel, spec.strides, spec.pads, dimension_numbers=LAYOUT, precision=spec.precision
    )


def _as_convolution(cotangent, kernel, spec):
    """dL/dx as a stride-1 convolution with the flipped kernel, the cotangent with stride - 1 zeros between its entries."""
    flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    flipped = lax.optimization_barrier(flipped)  # or XLA folds the flip back into the slow form
    both = []
    for n, m, k, s, (low, _) in zip(spec.size, cotangent.shape[1:3], spec.window, spec.strides, spec.pads, strict=True):
        before = k - 1 - low
        both.append((before, n - (m - 1) * s - 1 + k - 1 - before))  # so that the size of the input comes back
    return lax.conv_general_dilated(
        cotangent, flipped, (1, 1), both, spec.strides, None, LAYOUT, precision=spec.precision
    )


def _transposed(cotangent, kernel, spec):
    """dL/dx in XLA's own form."""
    x = jax.ShapeDtypeStruct((len(cotangent), *spec.size, kernel.shape[2]), cotangent.dtype)
    (to_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, spec), x)(cotangent)
    return to_x


def _of_kernel(x, cotangent, spec):
    """dL/dk in XLA's own form."""
    kernel = jax.ShapeDtypeStruct((*spec.window, x.shape[-1], cotangent.shape[-1]), x.dtype)
    (to_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, spec), kernel)(cotangent)
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
