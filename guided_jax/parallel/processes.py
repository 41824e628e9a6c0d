"""Several processes that compute together."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

# Seconds without a heartbeat after which a process counts as lost.
TIMEOUT = 30


def join(coordinator: str | None, num_processes: int | None, process_id: int | None, auto: bool = False) -> None:
    """Join the processes that work together, before the first use of a device; do nothing when nothing is given.

    coordinator: host:port of process 0. auto: read all three from the environment of a TPU pod, Slurm or Open MPI. A
    process that hears nothing from another for `TIMEOUT` seconds ends. ValueError when an argument is missing or the
    other processes are not found.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None,) * 3 and not auto:
        return
    if not auto and None in given:
        raise ValueError("processes that work together need a coordinator, their number and the id of each")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"process {process_id} of {num_processes}: they count from 0 to {num_processes - 1}")
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=TIMEOUT, shutdown_timeout_seconds=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"cannot join the other processes: {str(error).splitlines()[0]}") from error


def single_process() -> bool:
    """Return whether there is one process only."""
    return jax.process_count() == 1


def primary() -> bool:
    """Return whether this is process 0, the one that writes files."""
    return jax.process_index() == 0


def takes_part(tree: PyTree) -> bool:
    """Return whether this process computes with a tree of arrays: the first does, and each one that holds a part of it.

    What is whole on the devices of every process is computed with in the first alone.
    """
    return primary() or not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree))


def to_host(tree: PyTree) -> PyTree:
    """Return the tree as NumPy arrays, whole, in every process; all of them have to call it when parts are elsewhere."""

    def whole(leaf):
        near = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        return jax.device_get(leaf) if near else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def all_finite(tree: PyTree) -> bool:
    """Return whether every number of a tree of arrays is finite, in all processes together, without moving the tree."""

    def parts(leaf):
        shards = leaf.addressable_shards
        return shards[:1] if leaf.is_fully_replicated else shards

    finite = all(np.isfinite(part.data).all() for leaf in jax.tree.leaves(tree) for part in parts(leaf))
    return finite if single_process() else bool(multihost_utils.process_allgather(np.asarray(finite)).all())


def share() -> tuple[int, int]:
    """Return (i, n): of every batch, this process reads the i-th of n equal parts."""
    return jax.process_index(), jax.process_count()


_STATUS = re.compile("[A-Z_]+: ")  # with which a message of XLA begins
# In the errors of JAX, Gloo and Orbax when another process has ended.
_PEER_LOST = re.compile("heartbeat|arrier|closed by peer|reset by peer|UNAVAILABLE|[Gg]loo|NCCL")


@contextlib.contextmanager
def exit_if_peer_lost() -> Iterator[None]:
    """End this process with one sentence and exit code 2 when, within the context, another process is lost.

    It ends at once: an ordinary exit would wait for the lost process. When process 0 is lost JAX itself ends the others,
    with its own message, before any Python code can.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, OSError, ValueError) as error:  # JAX makes a ValueError of some of XLA's
        others = isinstance(error, ValueError) and not _STATUS.match(str(error))
        if single_process() or others or not _PEER_LOST.search(str(error)):
            raise
        reason = (
            "another process has gone, so this one stops; start all of them again to go on from the last checkpoint"
        )
        print(f"error: {reason} ({str(error).splitlines()[0][:160]})", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(2)


def stop_requested(stop: Callable[[], Any], step: int) -> bool:
    """Return whether to stop after step `step`: by `stop()`, or, among several processes, as they agree.

    When one of several receives SIGTERM all stop after the same step, or each would wait for the others.
    """
    return bool(stop()) if single_process() else multihost_utils.reached_preemption_sync_point(step)


def from_primary(call: Callable[[], int]) -> int:
    """Return call() of process 0 in every process; what it raises of ValueError and OSError is raised in all of them.

    call: -> an integer of 32 bits, such as whether something is there; called in process 0 alone.
    """
    if single_process():
        return call()
    value, error = 0, None
    if primary():
        try:
            value = int(call())
        except (ValueError, OSError) as raised:
            error = raised
    words = np.zeros(1024, np.uint8)
    said = ("" if error is None else str(error) or type(error).__name__).encode()[: len(words)]
    words[: len(said)] = np.frombuffer(said, np.uint8)
    value, words = multihost_utils.broadcast_one_to_all((np.int32(value), words))
    if error is not None:
        raise error
    if words.any():
        raise ValueError(bytes(words).rstrip(b"\0").decode(errors="replace"))
    return int(value)


def wait_for_all() -> None:
    """Return once every process has called this: what the first one wrote before is there for all."""
    if not single_process():
        multihost_utils.sync_global_devices("wait_for_all")


def same_everywhere(value: int, what: str) -> None:
    """Raise ValueError when the processes do not all have the same value; what: the plural noun for it in the message."""
    if not single_process() and len(set(multihost_utils.process_allgather(np.asarray(value)).tolist())) > 1:
        raise ValueError(f"the processes see different {what}")
