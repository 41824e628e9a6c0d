"""The rows of a batch over processes: those that this process computes, and those of all processes put together again."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree


def rank(devices: Sequence[jax.Device]) -> tuple[int, int]:
    """Return (i, n): of every batch on these devices, this process computes the i-th of n equal parts.

    ValueError when none of the devices belongs to this process, and when those of a process are not neighbours.
    """
    owners = [device.process_index for device in devices]
    processes = sorted(set(owners))
    if owners != sorted(owners):
        raise ValueError("the devices of a process have to be neighbours; give them as choose_devices returns them")
    if jax.process_index() not in processes:
        raise ValueError(f"process {jax.process_index()} has none of the {len(devices)} devices of a batch")
    return processes.index(jax.process_index()), len(processes)


def own_rows(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Return the rows of this process, of a tree with all rows (N, ...); ValueError when N does not divide over them."""
    first, groups = rank(devices)
    if groups == 1:
        return tree

    def own(leaf):
        if leaf.shape[0] % groups:
            raise ValueError(f"{leaf.shape[0]} examples do not divide over {groups} processes")
        size = leaf.shape[0] // groups
        return leaf[first * size : (first + 1) * size]

    return jax.tree.map(own, tree)


def gather_rows(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Return all rows (N, ...) in every process, each of which gives its own as `own_rows` has them; NumPy arrays."""
    if rank(devices)[1] == 1:
        return tree
    return jax.tree.map(lambda leaf: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)), tree)
