"""The whole state on every device and a share of the batch on each: `jax.pmap`.

The state is never stacked: it enters with `in_axes=None` and comes back with `out_axes=None`, replicated, so
checkpoints and evaluation read it as if there were one device. Whatever is returned that way must be equal on all
devices, which is why the step averages gradients and metrics with the `average` it is given.

A list of devices names those of all processes, in the order of the processes. Each process holds the state on its own
devices and is given its own rows of every batch: process r of P has rows r B / P .. (r + 1) B / P.

Arguments of compiled functions are placed on their devices explicitly, never by an implicit transfer.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from guided_jax.parallel.devices import compiler_options, local_devices
from guided_jax.parallel.dispatch import compile_program, compile_with, make_step, scan_steps
from guided_jax.parallel.processes import single_process
from guided_jax.parallel.rows import gather_rows, own_rows

AXIS = "devices"


def place(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Return a copy of the tree on every device of this process.

    Do this once, before the first step: only a placed state can be donated. The copy shares no memory with the original,
    nor one leaf with another, so donating it destroys nothing else.
    """
    # An explicit copy: `device_put` leaves the first replica in the memory of the original, even with `may_alias=False`.
    # And one compiled copy of the whole tree: leaf by leaf, every shape would be a program of its own.
    return jax.device_put(jax.jit(functools.partial(jax.tree.map, jnp.copy))(tree), device_sharding(devices))


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Return the tree on every device of this process, for arguments that are never donated: it may share their memory.

    The devices of a CPU hold it together, once, however many they are.
    """
    on_cpu = all(device.platform == "cpu" for device in devices)
    # An array of numpy, which here is a view, is shared by all devices; an array of jax is copied to all but one.
    return jax.device_put(jax.tree.map(_host_view, tree) if on_cpu else tree, device_sharding(devices))


def _host_view(leaf):
    return leaf if jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else jax.device_get(leaf)


def first_copy(tree: PyTree) -> PyTree:
    """Return a placed tree on the first device of this process alone, without a copy; a divided one stays as it is, and so
    does one that several processes share.

    What is then computed from it by `jax.jit` is computed once, and not in full on every device that has a copy. The
    memory is that of the tree, which a step that donates it destroys.
    """
    leaves = jax.tree.leaves(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree) if all(map(_is_whole, leaves)) else tree


def _is_whole(leaf):
    return leaf.is_fully_replicated and leaf.is_fully_addressable


def shard(tree: PyTree, count: int) -> PyTree:
    """Split the leading axis of every leaf, in order: (B, ...) to (count, B / count, ...); ValueError if it cannot."""

    def split(leaf):
        if leaf.shape[0] % count:
            raise ValueError(f"{leaf.shape[0]} examples do not divide over {count} devices")
        return leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:])

    return jax.tree.map(split, tree)


def data_parallel(
    train_step: Callable, devices: Sequence[jax.Device], donate: bool = True, scan: bool | None = None
) -> Callable:
    """Compile a train step for several devices: `step(state, batch) -> (state, metrics)`, with all the rows (B, ...) of
    this process.

    `train_step(state, batch, indices, average=...)` sees its share of the batch and the global index of every example
    in it, so the result does not depend on the number of devices. `step(state, batch_1, ..., batch_k)` makes k steps;
    its metrics are (k,). They are one dispatch, a `scan`, but on CPU, where loops slow convolutions down tenfold, they
    are made one by one unless `scan` is given. With `donate` the state passed in is destroyed: `place` it first.
    """
    own = len(local_devices(devices))
    one = functools.partial(train_step, average=functools.partial(jax.lax.pmean, axis_name=AXIS))
    donated = (0,) if donate else ()

    def wrap(step):
        axes = functools.partial(jax.pmap, axis_name=AXIS, in_axes=(None, 0, 0), out_axes=(None, None), devices=devices)
        # A `pmap` compiled ahead of time does not take the rows of one process of several.
        return compile_with(compiler_options(devices) if single_process() else {}, axes(step, donate_argnums=donated))

    mapped, scanned = wrap(one), wrap(scan_steps(one))

    def shares(*batches):
        """Return (the batch, or the stack of several; the indices of its examples), a row for each device."""
        count = len(jax.tree.leaves(batches[0])[0])
        indices = shard(np.arange(count, dtype=np.int32) + jax.process_index() * count, own)
        parts = [shard(batch, own) for batch in batches]
        whole = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *parts) if len(parts) > 1 else parts[0]
        return jax.device_put((whole, indices), device_sharding(devices, AXIS))

    return make_step(mapped, scanned, shares, devices[0].platform != "cpu" if scan is None else scan)


def parallel_map(fn: Callable, devices: Sequence[jax.Device], in_axes: tuple[int | None, ...]) -> Callable:
    """Compile a function of one example into a function of N examples spread over the devices.

    in_axes: one entry per argument, 0 for an argument with one row per example, (N, ...), None for one that all examples
    share (`place` large shared ones, such as parameters, once beforehand). N must be a multiple of the number of devices;
    ValueError if it is not. The function returns numpy arrays (N, ...), which depend on N / devices, by rounding, but not
    on the number of devices. Where the devices are those of several processes, each calls it with all N examples,
    computes its part of them, and is given all results.

    >>> double = parallel_map(lambda w, x: w * x, jax.devices()[:1], in_axes=(None, 0))
    >>> double(np.float32(2), np.arange(4, dtype=np.float32)).tolist()
    [0.0, 2.0, 4.0, 6.0]
    """
    merge = functools.partial(jax.tree.map, lambda leaf: leaf.reshape(-1, *leaf.shape[2:]))
    programs, own = {}, local_devices(devices)

    def compiled(structure, example, shares):
        key = structure, example, tuple(leaf.shape for leaf in jax.tree.leaves(shares))
        if key not in programs:
            opened, constants = _without_constants(fn, *jax.tree.unflatten(structure, example))
            constants, axes = replicate(constants, devices), (None, *in_axes)
            mapped = jax.pmap(jax.vmap(opened, in_axes=axes), axis_name=AXIS, in_axes=axes, devices=own)
            program = compile_program(mapped.lower(constants, *shares), compiler_options(devices))
            programs[key] = functools.partial(program, constants)
        return programs[key]

    def call(*arguments):
        pairs = list(zip(arguments, in_axes, strict=True))
        one = [jax.tree.map(_row if axis == 0 else _all, a) for a, axis in pairs]
        example, structure = jax.tree.flatten(one)
        put = [
            (shard(own_rows(a, devices), len(own)), device_sharding(devices, AXIS))
            if axis == 0
            else (a, device_sharding(devices))
            for a, axis in pairs
        ]
        shares = [jax.device_put(a, sharding) for a, sharding in put]
        return gather_rows(merge(jax.device_get(compiled(structure, tuple(example), shares)(*shares))), devices)

    return call


def _row(leaf):
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def _all(leaf):
    found = jax.typeof(leaf)  # without its sharding, which is none inside a pmap
    return jax.ShapeDtypeStruct(found.shape, found.dtype, weak_type=found.weak_type)


def _without_constants(fn, *example):
    """Return `fn(constants, ...)` and the constants: the arrays that fn closes over become an argument.

    XLA would simplify arithmetic with constants before or after it divides the program over devices, depending on their
    number, and so round differently.
    """
    closed, result = jax.make_jaxpr(fn, return_shape=True)(*example)

    def opened(constants, *arguments):
        evaluate = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))
        return jax.tree.unflatten(jax.tree.structure(result), evaluate(*jax.tree.leaves(arguments)))

    return opened, closed.consts


def as_global(tree: PyTree) -> PyTree:
    """Return a placed tree as global arrays of all processes, as Orbax writes them, without a copy; itself if single."""
    return tree if single_process() else jax.tree.map(_global_leaf, tree)


def _global_leaf(leaf):
    if not leaf.is_fully_addressable:  # it is one already
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_global_leaf(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    shards = [shard.data for shard in leaf.addressable_shards]
    # `choose_devices` takes equally many of each process.
    groups = [jax.local_devices(process_index=process)[: len(shards)] for process in range(jax.process_count())]
    everywhere = NamedSharding(Mesh(np.array(groups).ravel(), (AXIS,)), PartitionSpec())
    return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, shards)


def device_sharding(devices: Sequence[jax.Device], *axes: str | None) -> NamedSharding:
    """Return the sharding of a whole array on every device of this process, or with `AXIS` along an axis of it."""
    return NamedSharding(Mesh(np.array(local_devices(devices)), (AXIS,)), PartitionSpec(*axes))
