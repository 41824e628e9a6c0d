"""Checkpoints of a run: a thin layer over Orbax.

A directory holds one numbered folder per saved step: the state as Orbax writes it, and a manifest with the digest of
every file, the position of the data, the configuration and the metrics. A folder is written under another name and
renamed to its number when it is complete, and renamed again before it is deleted: at any moment, every numbered folder
is whole. One that was damaged later is found by its digests, named in the error, and the one before it is used.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from guided_jax import parallel
from guided_jax.storage import compare, manifest
from guided_jax.storage.files import writable_directory

# Prefixes of folders that are being written, being deleted, or were found damaged.
WRITING, DELETING, DAMAGED = "writing-", "deleting-", "damaged-"


class Damaged(UserWarning):
    """Warning that a checkpoint differs from what was written, and another one is used."""


class Saved(NamedTuple):
    """What `restore` returns: `data_state` and `config` are those given to `save`, after a round trip through JSON."""

    step: int
    state: PyTree
    data_state: Any
    config: Any


@dataclasses.dataclass
class Checkpoints:
    """A directory opened by one writer. `last` is the last step saved in it, None when there is none."""

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
    """Open a directory to `save` to, for one writer.

    The last `keep` checkpoints stay, and the one whose metric `keep_best` is lowest, or with `keep_highest` highest. The
    directory is made if missing, and the remains of interrupted saves and deletions are removed. Pending saves are
    finished at the end of the block. Raises OSError when it cannot be written, then or at any save; earlier checkpoints
    stay as they are.
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
            with contextlib.suppress(OSError):  # the first error is the one to report
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
    """Save `state` as checkpoint `step`: return once it is copied, and write it in the background.

    data_state, config: anything JSON can hold. frugal: write in parts, for a state that does not fit in memory twice; it
    must not change meanwhile. Waits for the save before, and raises OSError when that failed.
    """
    _finish(checkpoints)
    notes = {"data_state": data_state, "config": config, "metrics": dict(metrics or {})}
    json.dumps(notes)  # raise here what JSON cannot hold, not in the background
    with _write_errors(checkpoints.directory, step), _few_slices(frugal):
        writing = ocp.save_async(checkpoints.directory / f"{WRITING}{step}", parallel.as_global(state))
    checkpoints.pending = checkpoints.worker.submit(_publish, checkpoints, writing, step, notes)
    checkpoints.last = step


def _few_slices(frugal=False):
    """Return a context in which Orbax divides only large arrays over the devices that hold them."""
    context = ocp.Context()
    if frugal:
        context.memory.transfer_concurrent_bytes = context.memory.write_concurrent_bytes = 50 * 2**20
    context.array.saving.min_slice_bytes_for_replica_parallel = 2**20
    return context


def _publish(checkpoints, writing, step, notes):
    """Finish a checkpoint, in the background: write its manifest, rename it to its number, delete old ones."""
    with _write_errors(checkpoints.directory, step):
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
    best_step = best(checkpoints.directory, checkpoints.keep_best, checkpoints.keep_highest)
    kept = {*folders[-checkpoints.keep :], best_step}
    for step in (step for step in folders if step not in kept):
        leaving = checkpoints.directory / f"{DELETING}{step}"
        os.replace(checkpoints.directory / str(step), leaving)
        shutil.rmtree(leaving, ignore_errors=True)


@contextlib.contextmanager
def _write_errors(directory, step):
    """Turn any error while writing into an OSError of one sentence. Orbax reports a full disk in several ways."""
    try:
        yield
    except Exception as error:
        found = re.search(r": ([^:]+) \[os_error_code", str(error))
        reason = found[1] if found else getattr(error, "strerror", None) or str(error).splitlines()[0]
        message = f"cannot write checkpoint {step} in {directory}: {reason}; those saved before are as they were"
        raise OSError(message) from error


@contextlib.contextmanager
def _quiet():
    """Silence Orbax's log, where a failed write has several tracebacks; `_write_errors` reports it."""
    logger = logging.getLogger("absl")
    logger.addFilter(_not_from_orbax)
    try:
        yield
    finally:
        logger.removeFilter(_not_from_orbax)


def _not_from_orbax(record):
    return "orbax" not in record.pathname


def steps(directory: str | os.PathLike) -> list[int]:
    """Return the steps saved in the directory, ascending; none when there is no directory."""
    directory = Path(directory)
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit()) if directory.is_dir() else []


def latest(directory: str | os.PathLike) -> int | None:
    """Return the last step saved in the directory; None when there is none, or no directory."""
    return max(steps(directory), default=None)


def best(directory: str | os.PathLike, metric: str | None, highest: bool = False) -> int | None:
    """Return the step whose saved `metric` is lowest, or with `highest` highest, the earlier of equal ones.

    None when no checkpoint has the metric.
    """
    values: dict[int, float] = {}
    for step in steps(directory) if metric is not None else []:
        with contextlib.suppress(ValueError):  # a damaged one is not the best
            metrics = manifest.read_notes(Path(directory) / str(step))["metrics"]
            value = metrics.get(metric, math.nan)
            values |= {step: value} if math.isfinite(value) else {}
    return min(values, key=lambda step: -values[step] if highest else values[step], default=None)


def set_aside(checkpoints: Checkpoints, last: int) -> None:
    """Make `last` the last checkpoint: rename later ones, which were found damaged, so that they can be saved again."""
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
    """Read checkpoint `step` into the structure, shapes, dtypes and devices of `template`.

    Args:
      template: a state as `training.init` returns it, placed where the result shall be; its values are not read.
      step: the last whole checkpoint by default, with a warning about each damaged one.
      config: must equal the saved one, except for the dotted names in `ignore` and names that were added since.

    Raises FileNotFoundError when there is no such checkpoint, ValueError when it is damaged or when configuration or
    state do not fit.
    """
    path, notes = _whole(directory, step)
    if config is not None:
        # A setting that a newer version added is no difference: its default is what was done before.
        added = set(compare.flatten(config)) - set(compare.flatten(notes["config"]))
        if differing := compare.differences(notes["config"], config, {*ignore, *added}):
            raise ValueError(f"the checkpoint {path} was made with another configuration: {compare.shorten(differing)}")
    if differing := compare.differences(_shapes(ocp.metadata(path).metadata, template), _shapes(template, template)):
        raise ValueError(f"the checkpoint {path} holds another network or optimizer: {compare.shorten(differing)}")
    state = ocp.load(path, jax.tree.map(_abstract, template))
    return Saved(int(path.name), state, notes["data_state"], notes["config"])


def load_params(
    directory: str | os.PathLike,
    which: Literal["ema", "params"] = "ema",
    step: int | None = None,
    sharding: Callable[[Any], jax.sharding.Sharding] | None = None,
    only: Sequence[str] | None = None,
) -> PyTree:
    """Read only the averaged ("ema") or the latest ("params") parameters, as nested dicts.

    only: the entries of the outermost dict that are wanted, all of them if None. They are read onto the first local
    device, or by `sharding(leaf)`, such as `parallel.leaf_sharding`. Neither network nor optimizer is needed. Step and
    errors are those of `restore`. When a training process deletes the checkpoint meanwhile, the then last one is read:
    always one whole checkpoint.
    """
    while True:
        path, _ = _whole(directory, step)
        try:
            return _read_params(path, which, sharding, only)
        except Exception:
            if path.is_dir():  # still there: the error is not that of a deletion
                raise


def param_shapes(
    directory: str | os.PathLike, which: Literal["ema", "params"] = "ema", step: int | None = None
) -> PyTree:
    """Return the jax.ShapeDtypeStruct of each parameter that `load_params` would read, without reading it."""
    path, _ = _whole(directory, step)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), ocp.metadata(path).metadata[which])


def _read_params(path, which, sharding, only):
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree = ocp.metadata(path).metadata
    names = list(tree[which]) if only is None else only
    wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, dict(tree))
    wanted[which] |= jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(leaf) if sharding else first),
        {name: tree[which][name] for name in names},
    )
    found = ocp.load(path, wanted)[which]
    return {name: found[name] for name in names}


def _whole(directory, step):
    """Return folder and notes of a checkpoint whose every byte is as it was written."""
    place = Path(directory).expanduser().absolute()
    remaining = steps(place) if step is None else [step] if (place / str(step)).is_dir() else []
    first = remaining[0] if remaining else None
    while remaining:
        number = remaining.pop()
        try:
            return place / str(number), manifest.verify(place / str(number))
        except ValueError as error:
            if not (place / str(number)).is_dir():  # deleted by a training process meanwhile
                return _whole(directory, step)
            if number == first:
                rest = "" if step is not None else "; there is none before it: move the directory away to start anew"
                raise ValueError(f"the checkpoint {error}{rest}") from None
            warnings.warn(f"the checkpoint {error}; the one before it is used", Damaged, stacklevel=3)
    raise FileNotFoundError(f"there is no checkpoint {'' if step is None else f'of step {step} '}in {directory}")


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(tree, template):
    """Return the shape of every leaf by its dotted name, without keys, which are stored as their bits."""
    keys = {name for name, leaf in _named(template) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)}
    return {name: leaf.shape for name, leaf in _named(tree) if name not in keys}


def _named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
