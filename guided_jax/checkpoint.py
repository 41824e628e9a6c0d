"""Checkpoints of a run: a thin layer over Orbax.

A directory holds one numbered folder per saved step, with the state, and with the position of the data and the
configuration as JSON. Orbax writes a folder under a temporary name and renames it when it is complete, so every
numbered folder is whole.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from guided_jax.files import writable_directory


class Saved(NamedTuple):
    """What `restore` found: `data_state` and `config` are as they were given to `save`, after a round trip through JSON."""

    step: int
    state: PyTree
    data_state: Any
    config: Any


@contextlib.contextmanager
def opened(directory: str | os.PathLike, keep: int = 2) -> Iterator[ocp.training.Checkpointer]:
    """A place to `save` to, for one writer; the last `keep` checkpoints stay. Saves under way are finished when it
    closes.

    The directory is made if missing, what an interrupted save left behind is removed. OSError when it cannot be
    written.
    """
    policies = ocp.training.save_decision_policies, ocp.training.preservation_policies
    checkpointer = ocp.training.Checkpointer(
        writable_directory(directory),
        save_decision_policy=policies[0].FixedIntervalPolicy(1),
        preservation_policy=policies[1].LatestN(keep),
        cleanup_tmp_directories=True,
    )
    with checkpointer:
        yield checkpointer


def save(
    checkpoints: ocp.training.Checkpointer, step: int, state: PyTree, data_state: Any = None, config: Any = None
) -> None:
    """Saves `state` as checkpoint `step`: returns once it is copied, and is written in the background.

    `data_state` and `config` are anything JSON can hold. A save still under way is waited for.
    """
    checkpoints.save_async(step, state, custom_metadata={"data_state": data_state, "config": config})


def latest(directory: str | os.PathLike) -> int | None:
    """The last step saved in the directory; None when there is none, or no directory."""
    directory = Path(directory)
    steps = [int(path.name) for path in directory.iterdir() if path.name.isdigit()] if directory.is_dir() else []
    return max(steps, default=None)


def restore(
    directory: str | os.PathLike,
    template: PyTree,
    step: int | None = None,
    config: Any = None,
    ignore: Sequence[str] = (),
) -> Saved:
    """Reads checkpoint `step` (the latest if None) into the structure, shapes, dtypes and devices of `template`.

    `template` is a state as `training.init` makes it, placed where the result shall be; its values are not read. When
    `config` is given, it must equal the saved one, but for the dotted names in `ignore`.
    Raises FileNotFoundError when there is no such checkpoint, ValueError when configuration or state do not fit.
    """
    path = _path(directory, step)
    found = ocp.metadata(path)
    notes = found.custom_metadata
    if config is not None and (differing := differences(notes["config"], config, ignore)):
        raise ValueError(f"the checkpoint {path} was made with another configuration: {_some(differing)}")
    if differing := differences(_shapes(found.metadata, template), _shapes(template, template)):
        raise ValueError(f"the checkpoint {path} holds another network or optimizer: {_some(differing)}")
    state = ocp.load(path, jax.tree.map(_abstract, template))
    return Saved(int(path.name), state, notes["data_state"], notes["config"])


def load_params(
    directory: str | os.PathLike, which: Literal["ema", "params"] = "ema", step: int | None = None
) -> PyTree:
    """Only the averaged ("ema") or the latest ("params") parameters, as nested dicts on the first local device.

    Nothing else is read, and neither network nor optimizer is needed. FileNotFoundError when there is no such
    checkpoint.
    """
    path = _path(directory, step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree = ocp.metadata(path).metadata
    wanted = {name: jax.tree.map(lambda _: ocp.PLACEHOLDER, part) for name, part in tree.items()}
    wanted[which] = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree[which]
    )
    return ocp.load(path, wanted)[which]


def differences(saved: Any, current: Any, ignore: Sequence[str] = ()) -> list[str]:
    """The settings that differ, each as "dotted.name: saved -> current"; `absent` stands for one that is missing."""
    # Through JSON, so that a tuple equals the list it was saved as.
    old, new = (dict(_leaves("", json.loads(json.dumps(config)))) for config in (saved, current))
    names = [name for name in {**old, **new} if old.get(name, "absent") != new.get(name, "absent")]
    return [f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names if name not in ignore]


def _leaves(prefix, tree):
    if not isinstance(tree, Mapping):
        return [(prefix, tree)]
    return [leaf for key, part in tree.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, part)]


def _path(directory, step):
    found = latest(directory) if step is None else step
    path = Path(directory).expanduser().absolute() / str(found)
    if found is None or not path.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {'' if step is None else f'of step {step} '}in {directory}")
    return path


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(tree, template):
    """The shape of every leaf by its dotted name; a key is stored as its bits, so keys are left out."""
    keys = {name for name, leaf in _named(template) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)}
    return {name: leaf.shape for name, leaf in _named(tree) if name not in keys}


def _named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _some(texts, count=4):
    rest = [f"and {len(texts) - count} more"] if len(texts) > count else []
    return "; ".join(texts[:count] + rest)
