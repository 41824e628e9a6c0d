"""A part of the state and of the batch on every device, where the whole does not fit on one: `jax.jit`, `NamedSharding`.

In training, `gathered` gives each device all parameters during a step. In sampling, XLA gathers those of a layer where it
needs them. The functions mirror those of `replicated`, with the same results but for rounding. The devices
of several processes are one mesh: each process holds the parts of its own devices, is given its own rows of every batch,
and calls the same functions in the same order.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from guided_jax.parallel.devices import compiler_options
from guided_jax.parallel.dispatch import make_step, scan_steps
from guided_jax.parallel.processes import to_host
from guided_jax.parallel.replicated import AXIS
from guided_jax.parallel.rows import own_rows, rank

COPIES = "copies"  # the axis of the mesh along which parameters are repeated; along `AXIS` they are divided
ROWS = (COPIES, AXIS)  # the axes that a batch is divided over


def leaf_sharding(devices: Sequence[jax.Device], group: int | None = None) -> Callable[[Any], NamedSharding]:
    """Return the function leaf -> its sharding, along its longest axis that the size of a group of devices divides.

    devices: of all processes, as `choose_devices` returns them. group: so many neighbours hold a leaf together, and every
    group of them holds a copy; all devices if None. Of several longest axes it is the last; a leaf without such an axis is
    whole on every device.

    ValueError when the devices do not form groups of that size.
    """
    return functools.partial(_along_longest, device_mesh(devices, group))


def same_sharding(tree: PyTree) -> Callable[[Any], NamedSharding]:
    """Return the `leaf_sharding` that a divided tree has, on its own mesh: not every operation takes arrays of two."""
    return functools.partial(_along_longest, jax.tree.leaves(tree)[0].sharding.mesh)


def _along_longest(mesh, leaf):
    divided = divided_axis(leaf.shape, mesh.shape[AXIS])
    return NamedSharding(mesh, PartitionSpec(*(AXIS if axis == divided else None for axis in range(len(leaf.shape)))))


def divided_axis(shape: Sequence[int], count: int) -> int | None:
    """Return the longest axis that `count` devices divide, the last of several; None where there is none.

    >>> divided_axis((3, 3, 64, 128), 8)
    3
    """
    axes = [axis for axis, size in enumerate(shape) if size % count == 0 and size]
    return max(axes, key=lambda axis: (shape[axis], axis), default=None)


def place_leaves(params: Any, sharding: Callable[[Any], NamedSharding] | None) -> Any:
    """Return params of which each leaf goes to sharding(leaf), the same ones if that is None.

    Every process gives the whole params, and puts the parts of its own devices there.
    """
    return params if sharding is None else jax.tree.map(lambda leaf: _put_whole(leaf, sharding(leaf)), params)


def _put_whole(leaf, there):
    """Return an array, which every process has whole, as one of this sharding."""
    if there.is_fully_addressable:
        return jax.device_put(leaf, there)
    return jax.make_array_from_callback(leaf.shape, there, lambda part: np.asarray(leaf)[part])


def init_sharded(
    make: Callable[..., PyTree], devices: Sequence[jax.Device], *arguments: PyTree, group: int | None = None
) -> PyTree:
    """Return make(*arguments), a part on each device, computed there: no device ever holds more than its part.

    arguments: arrays, divided by `leaf_sharding` themselves where they are large. group: as of `leaf_sharding`.
    """
    shardings = jax.tree.map(leaf_sharding(devices, group), jax.eval_shape(make, *arguments))
    return jax.jit(make, out_shardings=shardings)(*arguments)


def fully_sharded(
    train_step: Callable,
    devices: Sequence[jax.Device],
    donate: bool = True,
    scan: bool | None = None,
    group: int | None = None,
) -> Callable:
    """Compile a train step as `data_parallel` does, for a state of `init_sharded`; `step(state, batch_1, ..., batch_k)`.

    Let the loss of the step be `gathered`, unless the parameters alone are too large for a device. group: that of the
    state.

    ValueError when the rows of all processes together do not divide over the devices.
    """

    @functools.cache
    def compiled(function, structure, shardings):
        return jit_step(function, jax.tree.unflatten(structure, shardings), devices, donate)

    def wrap(function):
        def call(state, batch, indices):
            leaves, structure = jax.tree.flatten(state)
            return compiled(function, structure, tuple(map(_sharding_of, leaves)))(state, batch, indices)

        return call

    row, row_of_several = mesh_sharding(devices, ROWS, group=group), mesh_sharding(devices, None, ROWS, group=group)

    def shares(*batches):
        count, (first, groups) = len(jax.tree.leaves(batches[0])[0]), rank(devices)
        if count * groups % len(devices):
            raise ValueError(f"{count * groups} examples do not divide over {len(devices)} devices")
        indices = _put_rows(np.arange(count, dtype=np.int32) + first * count, row)
        if len(batches) == 1:
            return _put_rows(batches[0], row), indices
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        return _put_rows(stacked, row_of_several), indices

    scan = devices[0].platform != "cpu" if scan is None else scan
    return make_step(wrap(train_step), wrap(scan_steps(train_step)), shares, scan)


def gathered(loss: Callable, devices: Sequence[jax.Device], group: int | None = None) -> Callable:
    """Return loss(params, ...) with params, which are divided over the devices, gathered whole on each of them first.

    During a step each device then holds all weights and their gradients, between steps only its part of the state. Without
    this XLA moves the activations of some layers between devices instead, in more and larger transfers, which
    docs/howto/machines.md compares.

    loss: (params, ...) -> anything; `fully_sharded` divides what the optimizer makes of the gradients again. group: that of
    the params.
    """
    whole = mesh_sharding(devices, group=group)

    def loss_of_whole(params, *arguments):
        return loss(jax.lax.with_sharding_constraint(params, whole), *arguments)

    return loss_of_whole


def jit_step(train_step: Callable, shardings: PyTree, devices: Sequence[jax.Device], donate: bool = True) -> Any:
    """Return the jitted (state, batch, indices) -> (state, metrics) of `fully_sharded`, of a state with these shardings.

    Also for devices that are only described (`jax.experimental.topologies`): its `lower` takes shapes with shardings.
    """
    whole = NamedSharding(jax.tree.leaves(shardings)[0].mesh, PartitionSpec())
    back, options = (shardings, whole), compiler_options(devices)
    return jax.jit(train_step, donate_argnums=(0,) if donate else (), out_shardings=back, compiler_options=options)


def _sharding_of(leaf):
    """Return the sharding of an array; a key that Orbax read has that of its bits, which have one axis more."""
    return NamedSharding(leaf.sharding.mesh, PartitionSpec(*leaf.sharding.spec[: leaf.ndim]))


def sharded_map(
    fn: Callable, devices: Sequence[jax.Device], in_axes: tuple[int | None, ...], group: int | None = None
) -> Callable:
    """Compile a function of one example as `parallel_map` does, with shared arguments divided as by `init_sharded`.

    group: that of the shared arguments.
    """
    row, options = mesh_sharding(devices, ROWS, group=group), compiler_options(devices)
    compiled = jax.jit(jax.vmap(fn, in_axes=in_axes), compiler_options=options)

    def call(*arguments):
        pairs = zip(arguments, in_axes, strict=True)
        return to_host(compiled(*(_put_rows(own_rows(a, devices), row) if axis == 0 else a for a, axis in pairs)))

    return call


def mesh_sharding(
    devices: Sequence[jax.Device], *axes: str | tuple[str, ...] | None, group: int | None = None
) -> NamedSharding:
    """Return the sharding of an array on all devices, those of other processes too, with these axes of the mesh.

    axes: for each axis of the array the axes of the mesh, such as `ROWS`, that divide it. group: as of `device_mesh`.
    """
    return NamedSharding(device_mesh(devices, group), PartitionSpec(*axes))


def device_mesh(devices: Sequence[jax.Device], group: int | None = None) -> Mesh:
    """Return the mesh (`COPIES`, `AXIS`) of the devices, in groups of so many neighbours, or in one if group is None.

    ValueError when the devices do not form groups of that size.
    """
    size = len(devices) if group is None else group
    if size < 1 or len(devices) % size:
        raise ValueError(f"{len(devices)} devices do not form groups of {size}; give a size that divides them")
    return Mesh(np.array(devices).reshape(-1, size), (COPIES, AXIS))


def _put_rows(tree, sharding):
    """Return the rows of all processes as global arrays, each process giving its own."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree)
