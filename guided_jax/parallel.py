"""Several devices, known to this file only: the train step and the sampler stay pure, `jax.pmap` is wrapped around them
here.

The state is never stacked: it enters with `in_axes=None` and comes back with `out_axes=None`, replicated, so
checkpoints and evaluation read it as if there were one device. Whatever is returned that way must be equal on all
devices, which is why the step averages gradients and metrics with the `average` it is given.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

AXIS = "devices"


def use_cpu_devices(count: int | None = None) -> None:
    """Splits the CPU into `count` devices, one per core this process may use when None.

    Call it before the first use of a device; later it has no effect, and it never changes accelerators. With None, a
    count already set through JAX_NUM_CPU_DEVICES, XLA_FLAGS or the jax configuration is respected. One device per
    core was measured to beat one device with a thread per core by 1.2 to 1.4 on two cores.
    """
    if count is None:
        chosen = getattr(jax.config, "jax_num_cpu_devices", -1) > 0
        if chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        affinity = getattr(os, "sched_getaffinity", None)
        count = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # the devices exist already: they stay as they are
        jax.config.update("jax_num_cpu_devices", count)


def choose_devices(batch_size: int, requested: int | None = None) -> list[jax.Device]:
    """The devices to spread a batch over: the largest count that divides it, or exactly `requested` of them.

    Raises ValueError when `requested` exceeds the devices present or does not divide the batch.
    """
    present = jax.local_devices()
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} examples cannot be spread over devices")
    if requested is None:
        return present[: max(n for n in range(1, len(present) + 1) if batch_size % n == 0)]
    if not 1 <= requested <= len(present):
        raise ValueError(f"{requested} devices were asked for and {len(present)} are present")
    if batch_size % requested:
        raise ValueError(f"a batch of {batch_size} examples does not divide over {requested} devices")
    return present[:requested]


def place(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """A copy of the tree on every device. Do this once, before the first step: only a placed state can be donated.

    The copy shares no memory with the original, nor one leaf with another, so donating it destroys nothing else.
    """
    everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    # An explicit copy: `device_put` leaves the first replica in the memory of the original, even with `may_alias=False`.
    return jax.device_put(jax.tree.map(jnp.copy, tree), everywhere)


def shard(tree: PyTree, count: int) -> PyTree:
    """Splits the leading axis of every leaf, in order: (B, ...) to (count, B / count, ...); ValueError if it cannot."""

    def split(leaf):
        if leaf.shape[0] % count:
            raise ValueError(f"{leaf.shape[0]} examples do not divide over {count} devices")
        return leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:])

    return jax.tree.map(split, tree)


def data_parallel(train_step: Callable, devices: Sequence[jax.Device], donate: bool = True) -> Callable:
    """Compiles a train step for several devices: `step(state, batch) -> (state, metrics)`, called with whole batches
    (B, ...).

    `train_step(state, batch, indices, average=...)` sees its share of the batch and the global index of every example
    in it, so the result does not depend on the number of devices. With `donate` the state passed in is destroyed:
    `place` it first.
    """
    average = functools.partial(jax.lax.pmean, axis_name=AXIS)
    mapped = jax.pmap(
        functools.partial(train_step, average=average),
        axis_name=AXIS,
        in_axes=(None, 0, 0),
        out_axes=(None, None),
        devices=devices,
        donate_argnums=(0,) if donate else (),
    )

    def step(state, batch):
        indices = np.arange(len(jax.tree.leaves(batch)[0]), dtype=np.int32)
        return mapped(state, *shard((batch, indices), len(devices)))

    return step


def parallel_map(fn: Callable, devices: Sequence[jax.Device], in_axes: tuple[int | None, ...]) -> Callable:
    """Turns a function of one example into a compiled function of N examples spread over the devices.

    `in_axes` has one entry per argument: 0 for an argument with one row per example, (N, ...), None for one that all
    examples share (`place` large shared ones, such as parameters, once beforehand). N must be a multiple of the number
    of devices. The callable returns numpy arrays (N, ...).
    """
    mapped = jax.pmap(jax.vmap(fn, in_axes=in_axes), axis_name=AXIS, in_axes=in_axes, devices=devices)
    merge = functools.partial(jax.tree.map, lambda leaf: leaf.reshape(-1, *leaf.shape[2:]))

    def call(*arguments):
        pairs = zip(arguments, in_axes, strict=True)
        return merge(jax.device_get(mapped(*(shard(a, len(devices)) if axis == 0 else a for a, axis in pairs))))

    return call


def map_in_chunks(fn: Callable[[Int[np.ndarray, " chunk"]], Any], count: int, chunk: int) -> Iterator[Any]:
    """Yields `fn(indices)` for the example indices 0 .. count-1, `chunk` at a time, always with the same shape.

    The last chunk is padded by repeating the last index and trimmed afterwards, so `fn`, which returns a tree of arrays
    (chunk, ...), is compiled once. The last tree yielded may have fewer than `chunk` rows.
    """
    for start in range(0, count, chunk):
        rows = min(chunk, count - start)
        indices = np.minimum(np.arange(start, start + chunk), count - 1)
        yield jax.tree.map(lambda leaf, rows=rows: leaf[:rows], fn(indices))
