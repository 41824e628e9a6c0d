"""Several processes that train one network, and what one of them has to know of the others."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# Seconds after which a process that says nothing counts as lost.
SILENCE = 30


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


def single_process() -> bool:
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
def exit_if_peer_lost() -> Iterator[None]:
    """Within, the loss of another process is told in one sentence, and ends this one with exit code 2.

    At once: an ordinary exit would wait for the one that has gone. When process 0 has gone JAX itself ends the others,
    with its own words, before any Python can.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, OSError) as error:
        if single_process() or not _GONE.search(str(error)):
            raise
        said = "another process has gone, so this one stops; start all of them again to go on from the last checkpoint"
        print(f"error: {said} ({str(error).splitlines()[0][:160]})", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(2)


def stop_requested(stop: Callable[[], Any], step: int) -> bool:
    """Whether to stop before step `step + 1`: what `stop()` says, or, among several processes, what they agree on.

    Those are all told when one receives SIGTERM, and stop after the same step, or each would wait for the others.
    """
    return bool(stop()) if single_process() else multihost_utils.reached_preemption_sync_point(step)


def same_everywhere(value: int, what: str) -> None:
    """ValueError when the processes do not all have the same value; `what` says of which they have different ones."""
    if not single_process() and len(set(multihost_utils.process_allgather(np.asarray(value)).tolist())) > 1:
        raise ValueError(f"the processes see different {what}")
