"""Operations outside of `jax.jit`, in NumPy: XLA takes ten milliseconds to compile each of them anew for every shape.

Only what NumPy computes to the same bits: what moves, compares or selects numbers, and one rounding of IEEE arithmetic.
tests/house/test_eager.py compares each with XLA. All else, and what is called often, is compiled as ever.
"""

import functools
import itertools
import weakref
from typing import NamedTuple

import jax
import numpy as np

CALLS = 30  # of one program, after which it is compiled: a call of a compiled program takes a hundredth of the time
SIZE = 20_000  # numbers in and out, at most
TYPES = {np.dtype(name) for name in ("bool", "int32", "uint32", "int64", "uint8", "float32", "float64")}


class NotHere(Exception):
    """What is left to XLA."""


def _broadcast(x, *, shape, broadcast_dimensions, **_):
    inner = [1] * len(shape)
    for size, axis in zip(np.shape(x), broadcast_dimensions, strict=True):
        inner[axis] = size
    return np.broadcast_to(np.reshape(x, inner), shape)


def _dynamic_slice(x, *starts, slice_sizes, **_):
    starts = [min(max(int(s), 0), n - size) for s, n, size in zip(starts, x.shape, slice_sizes, strict=True)]
    return x[tuple(slice(s, s + size) for s, size in zip(starts, slice_sizes, strict=True))]


def _slice(x, *, start_indices, limit_indices, strides, **_):
    steps = strides or (1,) * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


def _select(which, *cases, **_):
    if which.dtype != bool or len(cases) != 2:
        raise NotHere
    return np.where(which, cases[1], cases[0])


def _convert(x, *, new_dtype, **_):
    found = x.astype(new_dtype)
    if x.dtype.kind == "f" and np.dtype(new_dtype).kind in "iu" and not (np.trunc(x) == found).all():
        raise NotHere  # out of range, where every machine has another answer
    return found


def _pad(x, value, *, padding_config, **_):
    if any(low < 0 or high < 0 or inside for low, high, inside in padding_config):
        raise NotHere
    return np.pad(x, [(low, high) for low, high, _ in padding_config], constant_values=value)


def _iota(*, dtype, shape, dimension, **_):
    return _broadcast(np.arange(shape[dimension], dtype=dtype), shape=shape, broadcast_dimensions=(dimension,))


def _divide(x, y):
    if x.dtype.kind != "f":
        raise NotHere  # integers are rounded towards zero
    return np.divide(x, y)


def _square(x, y=2, **_):
    if y != 2:
        raise NotHere
    return np.multiply(x, x)


def plain(function):
    """Leave out the parameters of a primitive, which say nothing of its numbers."""
    return lambda *arrays, **_: function(*arrays)


MOVES = {
    "broadcast_in_dim": _broadcast,
    "reshape": lambda x, *, new_sizes, dimensions=None, **_: np.reshape(x, new_sizes),
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, dimensions),
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "transpose": lambda x, *, permutation, **_: np.transpose(x, permutation),
    "rev": lambda x, *, dimensions, **_: np.flip(x, dimensions),
    "concatenate": lambda *each, dimension, **_: np.concatenate(each, dimension),
    "select_n": _select,
    "copy": plain(np.array),
    "convert_element_type": _convert,
    "pad": _pad,
    "iota": _iota,
    "reduce_max": lambda x, *, axes, **_: np.max(x, tuple(axes)),
    "reduce_min": lambda x, *, axes, **_: np.min(x, tuple(axes)),
    "reduce_and": lambda x, *, axes, **_: np.all(x, tuple(axes)),
    "reduce_or": lambda x, *, axes, **_: np.any(x, tuple(axes)),
    "is_finite": plain(np.isfinite),
    "max": plain(np.maximum),
    "min": plain(np.minimum),
    "neg": plain(np.negative),
    "abs": plain(np.abs),
    "and": plain(np.bitwise_and),
    "or": plain(np.bitwise_or),
    "not": plain(np.invert),
    "eq": plain(np.equal),
    "ne": plain(np.not_equal),
    "lt": plain(np.less),
    "le": plain(np.less_equal),
    "gt": plain(np.greater),
    "ge": plain(np.greater_equal),
}
# Rounded once; two in one program may be rounded together by XLA, such as a product and a sum.
ROUNDED = {
    "add": plain(np.add),
    "sub": plain(np.subtract),
    "mul": plain(np.multiply),
    "div": plain(_divide),
    "sqrt": plain(np.sqrt),
    "square": _square,
    "integer_pow": _square,
}


class Program(NamedTuple):
    """A small program, its primitives in their order."""

    steps: list  # (function of NumPy, its parameters, variables in, variables out, rounds)
    inputs: list
    outputs: list
    constants: dict


def read(closed):
    """Return a program of JAX as one of NumPy, or raise NotHere; it rounds once at most, and calls are looked into."""
    from jax.extend.core import Literal

    jaxpr, steps, known = closed.jaxpr, [], {}
    if len(jaxpr.eqns) > 6 or jaxpr.effects:
        raise NotHere
    if any(getattr(const, "dtype", None) not in TYPES for const in closed.consts):
        raise NotHere  # such as a key
    known.update(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))

    def name(var):
        if isinstance(var, Literal):
            known[id(var)] = np.asarray(var.val, var.aval.dtype)
            return id(var)
        return var

    for eqn in jaxpr.eqns:
        kind, inputs = eqn.primitive.name, [name(var) for var in eqn.invars]
        if any(getattr(var.aval, "dtype", None) not in TYPES for var in eqn.outvars):
            raise NotHere
        if kind in ("jit", "pjit"):
            inner = read(eqn.params["jaxpr"])
            known.update(inner.constants)
            steps += [(plain(np.asarray), {}, [one], other) for one, other in zip(inputs, inner.inputs, strict=True)]
            steps += inner.steps
            steps += [(plain(np.asarray), {}, [o], v) for o, v in zip(inner.outputs, eqn.outvars, strict=True)]
        elif kind in MOVES or kind in ROUNDED:
            steps.append((MOVES.get(kind) or ROUNDED[kind], eqn.params, inputs, eqn.outvars[0]))
        else:
            raise NotHere
    if sum(function in ROUNDED.values() for function, *_ in steps) > 1:
        raise NotHere
    return Program(steps, list(jaxpr.invars), [name(var) for var in jaxpr.outvars], known)


def is_known(closed):
    """Return whether NumPy computes a program to the same bits."""
    try:
        return bool(read(closed))
    except NotHere:
        return False


def compute(program, arrays):
    """Return the outputs of a program as arrays of NumPy."""
    found = dict(program.constants)
    found.update(zip(program.inputs, arrays, strict=True))
    for function, params, inputs, output in program.steps:
        given = [found[var] for var in inputs]
        result = np.asarray(function(*given, **params))
        if (result.dtype, result.shape) != (output.aval.dtype, output.aval.shape):
            raise NotHere
        if function in ROUNDED.values() and result.dtype.kind == "f" and any(map(_denormal, (result, *given))):
            raise NotHere  # XLA makes them 0
        found[output] = result
    return [found[var] for var in program.outputs]


def _denormal(x):
    return ((x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny)).any()


def _to_numpy(value, aval, default):
    """Return an argument as an array of NumPy, or raise NotHere if it is large or lies somewhere that was chosen."""
    if isinstance(value, jax.Array):
        if value.committed or value.size > SIZE or value.dtype not in TYPES or value.sharding != default:
            raise NotHere
        return np.asarray(value)
    if not isinstance(value, bool | int | float | np.ndarray | np.generic) or aval.dtype not in TYPES:
        raise NotHere
    return np.asarray(value, aval.dtype)


def is_free(settings):
    """Return whether nothing was said of where a program runs and how it is compiled."""
    places = [*settings["in_shardings"], *settings["out_shardings"]]
    return (
        all(type(place).__name__ == "UnspecifiedValue" for place in places)
        and not any(settings["donated_invars"])
        and not settings["compiler_options_kvs"]
        and settings["ctx_mesh"].empty
    )


def compute_outside_of_jit():
    """Let NumPy compute the first calls of the programs that `is_known`."""
    from jax._src import pjit

    compiled = getattr(pjit, "_pjit_call_impl_python", None)
    if compiled is None:  # private to JAX, and elsewhere in some later version
        return
    seen = weakref.WeakKeyDictionary()  # program -> [calls that are left to NumPy, the same in NumPy]

    @functools.wraps(compiled)
    def call(*arguments, jaxpr, **settings):
        state = seen.get(jaxpr)
        if state is None:
            try:
                state = [CALLS, read(jaxpr)] if is_free(settings) else [0, None]
            except NotHere:
                state = [0, None]
            seen[jaxpr] = state
        if state[0] > 0 and jax.config.jax_default_device is None:
            state[0] -= 1
            try:
                return _call(state[1], jaxpr, arguments), None, None, []
            except Exception:  # XLA says what is wrong, if anything is
                state[0] = 0
        elif state[1]:
            forget_slow_paths(pjit)
        return compiled(*arguments, jaxpr=jaxpr, **settings)

    pjit._pjit_call_impl_python = call


@functools.cache
def late_calls():
    """Return the counter of the calls of compiled programs that JAX still takes to be Python's."""
    return itertools.count(1)


def forget_slow_paths(pjit, often=200):
    """Let JAX call what is compiled by now directly: it remembers that a program's first call came back from Python."""
    if next(late_calls()) % often == 0:
        pjit._cpp_pjit_cache_fun_only.clear()
        pjit._cpp_pjit_cache_explicit_attributes.clear()


def _call(program, closed, arguments):
    from jax._src.interpreters import pxla

    device, avals = jax.devices()[0], closed.out_avals
    default = jax.sharding.SingleDeviceSharding(device)
    arrays = [_to_numpy(*pair, default) for pair in zip(arguments, closed.in_avals, strict=True)]
    if sum(aval.size for aval in avals) > SIZE:
        raise NotHere
    with np.errstate(all="ignore"):
        results = compute(program, arrays)
    # Each with a memory of its own.
    return [
        pxla.batched_device_put(aval, default, [np.array(result)], [device], committed=False)
        for aval, result in zip(avals, results, strict=True)
    ]
