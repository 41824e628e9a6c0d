"""Checkpoints of a run: a thin layer over Orbax.

A directory holds one numbered folder per saved step: the state as Orbax writes it, and a manifest with the digest of
every file, the position of the data, the configuration and the metrics. A folder is written under another name and
takes its number when it is complete, and loses its number before it is deleted: at any moment, every numbered folder is
whole. One that was damaged later is found by its digests, refused by name, and the one before it is used.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from guided_jax import parallel
from guided_jax.storage import manifest
from guided_jax.storage.files import writable_directory

# Names of folders on their way in, on their way out, and found to be wrong.
WRITING, DELETING, DAMAGED = "writing-", "deleting-", "damaged-"


class Damaged(UserWarning):
    """A checkpoint is not what was written, and another one is used."""


class Saved(NamedTuple):
    """What `restore` found: `data_state` and `config` are as they were given to `save`, after a round trip through JSON."""

    step: int
    state: PyTree
    data_state: Any
    config: Any


@dataclasses.dataclass
class Checkpoints:
    """A directory that is open to one writer. `last` is the last step saved in it, None when there is none."""

    directory: Path
    keep: int
    keep_best: str | None
    keep_highest: bool
    last: int | None
    worker: concurrent.futures.Executor
    pending: concurrent.futures.Future | None = None


@contextlib.contextmanager
def opened(
    directory: str | os.PathLike, keep: int = 2, keep_best: str | None = None, keep_highest: bool = False
) -> Iterator[Checkpoints]:
    """A place to `save` to, for one writer. The last `keep` checkpoints stay, and the one whose metric `keep_best` is
    lowest, or with `keep_highest` highest.

    The directory is made if missing, what an interrupted save or deletion left behind is removed. Saves under way are
    finished when it closes. OSError in one sentence when it cannot be written, then or at any save; what was saved
    before stays as it is.
    """
    directory = writable_directory(directory)
    if parallel.primary():
        for pattern in (f"{WRITING}*", f"{DELETING}*", "*.orbax-checkpoint-tmp*"):
            for left in directory.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)
    with concurrent.futures.ThreadPoolExecutor(1) as worker, _quiet():
        checkpoints = Checkpoints(directory, keep, keep_best, keep_highest, latest(directory), worker)
        try:
            yield checkpoints
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                _finish(checkpoints)
            raise
        _finish(checkpoints)


def save(
    checkpoints: Checkpoints,
    step: int,
    state: PyTree,
    data_state: Any = None,
    config: Any = None,
    metrics: Mapping[str, float] | None = None,
    frugal: bool = False,
) -> None:
    """Saves `state` as checkpoint `step`: returns once it is copied, and is written in the background.

    `data_state` and `config` are anything JSON can hold. A save still under way is waited for, and its failure is told
    here: OSError. frugal: written in parts, for a state that does not fit in memory twice; it must not change meanwhile.
    """
    _finish(checkpoints)
    notes = {"data_state": data_state, "config": config, "metrics": dict(metrics or {})}
    json.dumps(notes)  # what JSON cannot hold is told now, and not in the background
    with _told(checkpoints.directory, step), _few_slices(frugal):
        writing = ocp.save_async(checkpoints.directory / f"{WRITING}{step}", parallel.as_global(state))
    checkpoints.pending = checkpoints.worker.submit(_publish, checkpoints, writing, step, notes)
    checkpoints.last = step


def _few_slices(frugal=False):
    """Orbax divides every array over the devices that hold it, which pays for large ones only."""
    context = ocp.Context()
    if frugal:
        context.memory.transfer_concurrent_bytes = context.memory.write_concurrent_bytes = 50 * 2**20
    context.array.saving.min_slice_bytes_for_replica_parallel = 2**20
    return context


def _publish(checkpoints, writing, step, notes):
    """In the background: the folder is complete, is listed, takes its number, and others may go."""
    with _told(checkpoints.directory, step):
        writing.result()
        if parallel.primary():
            folder = checkpoints.directory / f"{WRITING}{step}"
            manifest.write(folder, notes)
            os.replace(folder, checkpoints.directory / str(step))
            _prune(checkpoints)


def _finish(checkpoints):
    pending, checkpoints.pending = checkpoints.pending, None
    if pending is not None:
        pending.result()


def _prune(checkpoints):
    folders = steps(checkpoints.directory)
    best_one = best(checkpoints.directory, checkpoints.keep_best, checkpoints.keep_highest)
    kept = {*folders[-checkpoints.keep :], best_one}
    for step in (step for step in folders if step not in kept):
        leaving = checkpoints.directory / f"{DELETING}{step}"
        os.replace(checkpoints.directory / str(step), leaving)
        shutil.rmtree(leaving, ignore_errors=True)


@contextlib.contextmanager
def _told(directory, step):
    """Whatever goes wrong while writing, in one sentence. Orbax reports a full disk in several ways."""
    try:
        yield
    except Exception as error:
        found = re.search(r": ([^:]+) \[os_error_code", str(error))
        reason = found[1] if found else getattr(error, "strerror", None) or str(error).splitlines()[0]
        said = f"cannot write checkpoint {step} in {directory}: {reason}; those saved before are as they were"
        raise OSError(said) from error


@contextlib.contextmanager
def _quiet():
    """Orbax logs the traceback of a failed write several times over; it is told once, by `_told`."""
    logger = logging.getLogger("absl")
    logger.addFilter(_not_from_orbax)
    try:
        yield
    finally:
        logger.removeFilter(_not_from_orbax)


def _not_from_orbax(record):
    return "orbax" not in record.pathname


def steps(directory: str | os.PathLike) -> list[int]:
    """The steps saved in the directory, ascending; none when there is no directory."""
    directory = Path(directory)
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit()) if directory.is_dir() else []


def latest(directory: str | os.PathLike) -> int | None:
    """The last step saved in the directory; None when there is none, or no directory."""
    return max(steps(directory), default=None)


def best(directory: str | os.PathLike, metric: str | None, highest: bool = False) -> int | None:
    """The step whose saved `metric` is lowest, or with `highest` highest, the earlier of two alike; None when no
    checkpoint has it."""
    values: dict[int, float] = {}
    for step in steps(directory) if metric is not None else []:
        with contextlib.suppress(ValueError):  # a damaged one is not the best
            metrics = manifest.read_notes(Path(directory) / str(step))["metrics"]
            value = metrics.get(metric, math.nan)
            values |= {step: value} if math.isfinite(value) else {}
    return min(values, key=lambda step: -values[step] if highest else values[step], default=None)


def set_aside(checkpoints: Checkpoints, last: int) -> None:
    """Makes `last` the last checkpoint: later ones, which were found damaged, are renamed and can be saved anew."""
    for step in steps(checkpoints.directory) if parallel.primary() else []:
        if step > last:
            names = (f"{DAMAGED}{step}{ending}" for ending in ("", *(f".{n}" for n in range(1, 1000))))
            free = next(name for name in names if not (checkpoints.directory / name).exists())
            (checkpoints.directory / str(step)).rename(checkpoints.directory / free)
    checkpoints.last = last


def restore(
    directory: str | os.PathLike,
    template: PyTree,
    step: int | None = None,
    config: Any = None,
    ignore: Sequence[str] = (),
) -> Saved:
    """Reads checkpoint `step` into the structure, shapes, dtypes and devices of `template`.

    Without `step` it is the last that is whole, with a warning about each damaged one. `template` is a state as
    `training.init` makes it, placed where the result shall be; its values are not read. When `config` is given, it must
    equal the saved one, but for the dotted names in `ignore` and those that were not yet there when it was saved.
    Raises FileNotFoundError when there is no such checkpoint, ValueError when it is damaged or when configuration or
    state do not fit.
    """
    path, notes = _whole(directory, step)
    if config is not None:
        # A setting that a newer version added is no difference: its caller knows what was done before there was one.
        added = set(_settings(config)) - set(_settings(notes["config"]))
        if differing := differences(notes["config"], config, {*ignore, *added}):
            raise ValueError(f"the checkpoint {path} was made with another configuration: {_some(differing)}")
    if differing := differences(_shapes(ocp.metadata(path).metadata, template), _shapes(template, template)):
        raise ValueError(f"the checkpoint {path} holds another network or optimizer: {_some(differing)}")
    state = ocp.load(path, jax.tree.map(_abstract, template))
    return Saved(int(path.name), state, notes["data_state"], notes["config"])


def load_params(
    directory: str | os.PathLike,
    which: Literal["ema", "params"] = "ema",
    step: int | None = None,
    sharding: Callable[[Any], jax.sharding.Sharding] | None = None,
) -> PyTree:
    """Only the averaged ("ema") or the latest ("params") parameters, as nested dicts.

    They are read onto the first local device, or by `sharding(leaf)`, such as `parallel.leaf_sharding`. Nothing else is
    read, and neither network nor optimizer is needed. Which checkpoint, and what is raised: as `restore`.
    """
    path, _ = _whole(directory, step)
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree = ocp.metadata(path).metadata
    wanted = {name: jax.tree.map(lambda _: ocp.PLACEHOLDER, part) for name, part in tree.items()}
    wanted[which] = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(leaf) if sharding else first),
        tree[which],
    )
    return ocp.load(path, wanted)[which]


def _whole(directory, step):
    """Folder and notes of a checkpoint whose every byte is as it was written."""
    place = Path(directory).expanduser().absolute()
    found = steps(place) if step is None else [step] if (place / str(step)).is_dir() else []
    for number in reversed(found):
        try:
            return place / str(number), manifest.verify(place / str(number))
        except ValueError as error:
            if number == found[0]:
                rest = "" if step is not None else "; there is none before it: move the directory away to start anew"
                raise ValueError(f"the checkpoint {error}{rest}") from None
            warnings.warn(f"the checkpoint {error}; the one before it is used", Damaged, stacklevel=3)
    raise FileNotFoundError(f"there is no checkpoint {'' if step is None else f'of step {step} '}in {directory}")


def differences(saved: Any, current: Any, ignore: Collection[str] = ()) -> list[str]:
    """The settings that differ, each as "dotted.name: saved -> current"; `absent` stands for one that is missing."""
    old, new = _settings(saved), _settings(current)
    names = [name for name in {**old, **new} if old.get(name, "absent") != new.get(name, "absent")]
    return [f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names if name not in ignore]


def _settings(config):
    """By dotted name, and through JSON, so that a tuple equals the list it was saved as."""
    return dict(_leaves("", json.loads(json.dumps(config))))


def _leaves(prefix, tree):
    if not isinstance(tree, Mapping):
        return [(prefix, tree)]
    return [leaf for key, part in tree.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, part)]


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
