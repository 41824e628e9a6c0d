"""A part of the state and of the batch on every device, for networks that do not fit on one: `jax.jit`, `NamedSharding`.

XLA gathers the parameters of a layer where it needs them and divides their gradients again. The functions mirror those of
`replicated`, with the same results but for rounding. One process only.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from guided_jax.parallel.dispatch import make_step, scan_steps
from guided_jax.parallel.processes import single_process
from guided_jax.parallel.replicated import AXIS, device_sharding


def leaf_sharding(devices: Sequence[jax.Device]) -> Callable[[Any], NamedSharding]:
    """Return the function leaf -> its sharding, along its longest axis that the number of devices divides.

    Of several longest axes it is the last; a leaf without such an axis is whole on every device. ValueError for several
    processes.
    """
    if not single_process():
        raise ValueError("parameters are divided over the devices of one process only; start one process")

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % len(devices) == 0 and size]
        longest = max(axes, key=lambda axis: (leaf.shape[axis], axis), default=None)
        return device_sharding(devices, *(AXIS if axis == longest else None for axis in range(len(leaf.shape))))

    return sharding


def place_leaves(params: Any, sharding: Callable[[Any], NamedSharding] | None) -> Any:
    """Return params of which each leaf goes to sharding(leaf), the same ones if that is None."""
    return params if sharding is None else jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf)), params)


def init_sharded(make: Callable[..., PyTree], devices: Sequence[jax.Device], *arguments: PyTree) -> PyTree:
    """Return make(*arguments), a part on each device, computed there: no device ever holds the whole.

    arguments: arrays, divided by `leaf_sharding` themselves where they are large.
    """
    shardings = jax.tree.map(leaf_sharding(devices), jax.eval_shape(make, *arguments))
    return jax.jit(make, out_shardings=shardings)(*arguments)


def fully_sharded(
    train_step: Callable, devices: Sequence[jax.Device], donate: bool = True, scan: bool | None = None
) -> Callable:
    """Compile a train step as `data_parallel` does, for a state of `init_sharded`; `step(state, batch_1, ..., batch_k)`."""

    @functools.cache
    def compiled(function, structure, shardings):
        back = (jax.tree.unflatten(structure, shardings), device_sharding(devices))
        return jax.jit(function, donate_argnums=(0,) if donate else (), out_shardings=back)

    def wrap(function):
        def call(state, batch, indices):
            leaves, structure = jax.tree.flatten(state)
            return compiled(function, structure, tuple(leaf.sharding for leaf in leaves))(state, batch, indices)

        return call

    def shares(*batches):
        count = len(jax.tree.leaves(batches[0])[0])
        if count % len(devices):
            raise ValueError(f"{count} examples do not divide over {len(devices)} devices")
        indices = jax.device_put(np.arange(count, dtype=np.int32), device_sharding(devices, AXIS))
        if len(batches) == 1:
            return jax.device_put(batches[0], device_sharding(devices, AXIS)), indices
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        return jax.device_put(stacked, device_sharding(devices, None, AXIS)), indices

    scan = devices[0].platform != "cpu" if scan is None else scan
    return make_step(wrap(train_step), wrap(scan_steps(train_step)), shares, scan)


def sharded_map(fn: Callable, devices: Sequence[jax.Device], in_axes: tuple[int | None, ...]) -> Callable:
    """Compile a function of one example as `parallel_map` does, with shared arguments divided as by `init_sharded`."""
    compiled = jax.jit(jax.vmap(fn, in_axes=in_axes))

    def call(*arguments):
        row = device_sharding(devices, AXIS)
        put = [jax.device_put(a, row) if axis == 0 else a for a, axis in zip(arguments, in_axes, strict=True)]
        return jax.device_get(compiled(*put))

    return call
