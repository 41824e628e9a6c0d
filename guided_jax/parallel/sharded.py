"""A part of the state and of the batch on every device, for networks that do not fit on one: `jax.jit`, `NamedSharding`.

XLA brings the parameters of a layer together where it needs them and divides their gradients again. The functions are
those of `replicated` by other names, and the results the same to rounding. One process only.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from guided_jax.parallel.dispatch import several, stepper
from guided_jax.parallel.processes import single_process
from guided_jax.parallel.replicated import AXIS, over


def part_of(devices: Sequence[jax.Device]) -> Callable[[Any], NamedSharding]:
    """leaf -> how it is divided: along its longest axis that the devices divide, the last of them; whole where none is."""
    if not single_process():
        raise ValueError("parameters are divided over the devices of one process only; start one process")

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % len(devices) == 0 and size]
        longest = max(axes, key=lambda axis: (leaf.shape[axis], axis), default=None)
        return over(devices, *(AXIS if axis == longest else None for axis in range(len(leaf.shape))))

    return sharding


def init_sharded(make: Callable[[], PyTree], devices: Sequence[jax.Device]) -> PyTree:
    """make(), a part on each device; it is computed there, so that no device ever holds the whole."""
    shardings = jax.tree.map(part_of(devices), jax.eval_shape(make))
    return jax.jit(make, out_shardings=shardings)()


def fully_sharded(
    train_step: Callable, devices: Sequence[jax.Device], donate: bool = True, scan: bool | None = None
) -> Callable:
    """`data_parallel` for a state that was `init_sharded`: `step(state, batch_1, ..., batch_k) -> (state, metrics)`."""

    @functools.cache
    def compiled(function, structure, shardings):
        back = (jax.tree.unflatten(structure, shardings), over(devices))
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
        indices = jax.device_put(np.arange(count, dtype=np.int32), over(devices, AXIS))
        if len(batches) == 1:
            return jax.device_put(batches[0], over(devices, AXIS)), indices
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        return jax.device_put(stacked, over(devices, None, AXIS)), indices

    scan = devices[0].platform != "cpu" if scan is None else scan
    return stepper(wrap(train_step), wrap(several(train_step)), shares, scan)


def sharded_map(fn: Callable, devices: Sequence[jax.Device], in_axes: tuple[int | None, ...]) -> Callable:
    """`parallel_map` for shared arguments of which every device holds a part, as `init_sharded` divides them."""
    compiled = jax.jit(jax.vmap(fn, in_axes=in_axes))

    def call(*arguments):
        row = over(devices, AXIS)
        put = [jax.device_put(a, row) if axis == 0 else a for a, axis in zip(arguments, in_axes, strict=True)]
        return jax.device_get(compiled(*put))

    return call
