"""Several devices, and several processes, known to this file only: the train step and the sampler stay pure, `jax.pmap`
is wrapped around them here.

The state is never stacked: it enters with `in_axes=None` and comes back with `out_axes=None`, replicated, so
checkpoints and evaluation read it as if there were one device. Whatever is returned that way must be equal on all
devices, which is why the step averages gradients and metrics with the `average` it is given.

A list of devices names those of all processes, in the order of the processes. Each process holds the state on its own
devices and is given its own rows of every batch: process r of P has rows r B / P .. (r + 1) B / P.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

AXIS = "devices"

# Seconds after which a process that says nothing counts as lost.
SILENCE = 30


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


def join(coordinator: str | None, num_processes: int | None, process_id: int | None, auto: bool = False) -> None:
    """Joins the processes that work together, before the first use of a device; alone when nothing is given.

    `coordinator` is the host:port of process 0. With `auto` all is found out from the environment of a TPU pod, Slurm
    or Open MPI. A process whose peer is silent for `SILENCE` seconds ends. Raises ValueError when something is missing or
    the others are not found.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None,) * 3 and not auto:
        return
    if not auto and None in given:
        raise ValueError("processes that work together need a coordinator, their number and the id of each")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"process {process_id} of {num_processes}: they count from 0 to {num_processes - 1}")
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=SILENCE, shutdown_timeout_seconds=SILENCE)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"cannot join the other processes: {str(error).splitlines()[0]}") from error


def alone() -> bool:
    """Whether this process works by itself."""
    return jax.process_count() == 1


def primary() -> bool:
    """Whether this is the one process that writes files; an only process is."""
    return jax.process_index() == 0


def share() -> tuple[int, int]:
    """(i, n): of every batch, this process reads the i-th of n equal parts."""
    return jax.process_index(), jax.process_count()


# What the errors of JAX, Gloo and Orbax say when another process has gone.
_GONE = re.compile("heartbeat|arrier|closed by peer|reset by peer|UNAVAILABLE|[Gg]loo|NCCL")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within, the loss of another process is told in one sentence, and ends this one with exit code 2.

    At once: an ordinary exit would wait for the one that has gone. When process 0 has gone JAX itself ends the others,
    with its own words, before any Python can.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, OSError) as error:
        if alone() or not _GONE.search(str(error)):
            raise
        said = "another process has gone, so this one stops; start all of them again to go on from the last checkpoint"
        print(f"error: {said} ({str(error).splitlines()[0][:160]})", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(2)


def choose_devices(batch_size: int, requested: int | None = None) -> list[jax.Device]:
    """The devices to spread a batch over: the largest count that divides it, or exactly `requested` of them.

    With several processes they count together, and each gives equally many.
    Raises ValueError when `requested` exceeds the devices present or does not divide the batch, or the processes do not.
    """
    groups = [jax.local_devices(process_index=process) for process in range(jax.process_count())]
    present = len(groups) * min(len(group) for group in groups)
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} examples cannot be spread over devices")
    if batch_size % len(groups):
        raise ValueError(f"a batch of {batch_size} examples does not divide over {len(groups)} processes")
    if requested is None:
        requested = max(n for n in range(len(groups), present + 1, len(groups)) if batch_size % n == 0)
    if not 1 <= requested <= present:
        raise ValueError(f"{requested} devices were asked for and {present} are present")
    if requested % len(groups):
        raise ValueError(f"{requested} devices do not divide over {len(groups)} processes")
    if batch_size % requested:
        raise ValueError(f"a batch of {batch_size} examples does not divide over {requested} devices")
    return [device for group in groups for device in group[: requested // len(groups)]]


def asked(stop: Callable[[], Any], step: int) -> bool:
    """Whether to stop before step `step + 1`: what `stop()` says, or, among several processes, what they agree on.

    Those are all told when one receives SIGTERM, and stop after the same step, or each would wait for the others.
    """
    return bool(stop()) if alone() else multihost_utils.reached_preemption_sync_point(step)


def same_everywhere(value: int, what: str) -> None:
    """ValueError when the processes do not all have the same value; `what` says of which they have different ones."""
    if not alone() and len(set(multihost_utils.process_allgather(np.asarray(value)).tolist())) > 1:
        raise ValueError(f"the processes see different {what}")


def as_global(tree: PyTree) -> PyTree:
    """A placed tree as one that all processes share, without a copy, which is what Orbax writes; alone, the tree itself."""
    return tree if alone() else jax.tree.map(_global_leaf, tree)


def _global_leaf(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_global_leaf(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    shards = [shard.data for shard in leaf.addressable_shards]
    # `choose_devices` takes as many of each process.
    groups = [jax.local_devices(process_index=process)[: len(shards)] for process in range(jax.process_count())]
    everywhere = NamedSharding(Mesh(np.array(groups).ravel(), (AXIS,)), PartitionSpec())
    return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, shards)


def _here(devices):
    return [device for device in devices if device.process_index == jax.process_index()]


def place(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """A copy of the tree on every device of this process.

    Do this once, before the first step: only a placed state can be donated.

    The copy shares no memory with the original, nor one leaf with another, so donating it destroys nothing else.
    """
    everywhere = NamedSharding(Mesh(np.array(_here(devices)), (AXIS,)), PartitionSpec())
    # An explicit copy: `device_put` leaves the first replica in the memory of the original, even with `may_alias=False`.
    return jax.device_put(jax.tree.map(jnp.copy, tree), everywhere)


def shard(tree: PyTree, count: int) -> PyTree:
    """Splits the leading axis of every leaf, in order: (B, ...) to (count, B / count, ...); ValueError if it cannot."""

    def split(leaf):
        if leaf.shape[0] % count:
            raise ValueError(f"{leaf.shape[0]} examples do not divide over {count} devices")
        return leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:])

    return jax.tree.map(split, tree)


def data_parallel(
    train_step: Callable, devices: Sequence[jax.Device], donate: bool = True, scan: bool | None = None
) -> Callable:
    """Compiles a train step for several devices: `step(state, batch) -> (state, metrics)`, called with the whole batch
    of this process (B, ...).

    `train_step(state, batch, indices, average=...)` sees its share of the batch and the global index of every example
    in it, so the result does not depend on the number of devices. `step(state, batch_1, ..., batch_k)` makes k steps;
    its metrics are (k,). They are one dispatch, a `scan`, but on CPU, where loops slow convolutions down tenfold, they
    are made one by one unless `scan` is given. With `donate` the state passed in is destroyed: `place` it first.
    """
    here, average = len(_here(devices)), functools.partial(jax.lax.pmean, axis_name=AXIS)
    one = functools.partial(train_step, average=average)

    def several(state, batches, indices):
        return jax.lax.scan(lambda state, batch: one(state, batch, indices), state, batches)

    donated = (0,) if donate else ()
    wrap = functools.partial(jax.pmap, axis_name=AXIS, in_axes=(None, 0, 0), out_axes=(None, None), devices=devices)
    mapped, scanned = wrap(one, donate_argnums=donated), wrap(several, donate_argnums=donated)
    scan = devices[0].platform != "cpu" if scan is None else scan

    def step(state, *batches):
        if len(batches) > 1 and not scan:
            return _one_by_one(step, state, batches)
        count = len(jax.tree.leaves(batches[0])[0])
        indices = shard(np.arange(count, dtype=np.int32) + jax.process_index() * count, here)
        shares = [shard(batch, here) for batch in batches]
        if len(batches) == 1:
            return mapped(state, shares[0], indices)
        return scanned(state, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *shares), indices)

    return step


def _one_by_one(step, state, batches):
    rows = []
    for batch in batches:
        state, metrics = step(state, batch)
        rows.append(metrics)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def parallel_map(fn: Callable, devices: Sequence[jax.Device], in_axes: tuple[int | None, ...]) -> Callable:
    """Turns a function of one example into a compiled function of N examples spread over the devices.

    `in_axes` has one entry per argument: 0 for an argument with one row per example, (N, ...), None for one that all
    examples share (`place` large shared ones, such as parameters, once beforehand). N must be a multiple of the number
    of devices. The callable returns numpy arrays (N, ...), which depend on N / devices, by rounding, but not on the
    number of devices.
    """
    merge = functools.partial(jax.tree.map, lambda leaf: leaf.reshape(-1, *leaf.shape[2:]))

    @functools.cache
    def compiled(structure, example):
        opened, constants = _opened(fn, *jax.tree.unflatten(structure, example))
        axes = (None, *in_axes)
        mapped = jax.pmap(jax.vmap(opened, in_axes=axes), axis_name=AXIS, in_axes=axes, devices=devices)
        return functools.partial(mapped, place(constants, devices))

    def call(*arguments):
        pairs = list(zip(arguments, in_axes, strict=True))
        one = [jax.tree.map(_row, a) if axis == 0 else jax.tree.map(_all, a) for a, axis in pairs]
        example, structure = jax.tree.flatten(one)
        shares = [shard(a, len(devices)) if axis == 0 else a for a, axis in pairs]
        return merge(jax.device_get(compiled(structure, tuple(example))(*shares)))

    return call


def _row(leaf):
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def _all(leaf):
    found = jax.typeof(leaf)  # without its sharding, which is none inside a pmap
    return jax.ShapeDtypeStruct(found.shape, found.dtype, weak_type=found.weak_type)


def _opened(fn, *example):
    """`fn(constants, ...)` and the constants: the arrays that fn closes over become an argument.

    XLA would simplify arithmetic with known arrays before or after it divides the program over devices, depending on
    whether there are several, and so round differently.
    """
    closed, result = jax.make_jaxpr(fn, return_shape=True)(*example)

    def opened(constants, *arguments):
        evaluate = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))
        return jax.tree.unflatten(jax.tree.structure(result), evaluate(*jax.tree.leaves(arguments)))

    return opened, closed.consts


def map_in_chunks(
    fn: Callable[[Int[np.ndarray, " chunk"]], Any], count: int, chunk: int, start: int = 0
) -> Iterator[Any]:
    """Yields `fn(indices)` for the example indices start .. count-1, `chunk` at a time, always with the same shape.

    The last chunk is padded by repeating the last index and trimmed afterwards, so `fn`, which returns a tree of arrays
    (chunk, ...), is compiled once. The last tree yielded may have fewer than `chunk` rows.
    """
    for first in range(start, count, chunk):
        rows = min(chunk, count - first)
        indices = np.minimum(np.arange(first, first + chunk), count - 1)
        yield jax.tree.map(lambda leaf, rows=rows: leaf[:rows], fn(indices))
