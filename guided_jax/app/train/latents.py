"""The latents of a run's data: computed once by its autoencoder, kept in a folder, and read as the data to train with.

The folder `latents` holds for each split an array (N, h, w, 2 c), the mean and the standard deviation of z of each picture;
with flips N is twice the number of pictures, the second half those of the mirrored ones. It is written under another name
and renamed when it is complete. What belongs to other settings, or to an autoencoder of another step, is computed again.
"""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, parallel, progress
from guided_jax.app import latent_space, networks
from guided_jax.app import run as runs
from guided_jax.app.train.held_out import Loss
from guided_jax.storage import checkpoint, manifest
from guided_jax.storage.files import writable_directory

FOLDER, WRITING = "latents", "latents.writing"
SPLITS = {False: "train", True: "held_out"}
DRAW = 6  # of the keys of an example: `losses` folds 0 to 5 into it

Sources = Callable[[bool], data.Source]  # held_out -> the data
Stop = Callable[[], Any]


def check(run: runs.Run, out: Path) -> None:
    """Raise ValueError where a network was trained on the latents of an autoencoder that is about to be trained further."""
    experiment = run.experiment
    trained = [part for part in runs.PARTS if checkpoint.latest(out / part / "checkpoints") is not None]
    if not (experiment.latent and trained):
        return
    whitening, last = latent_space.read_whitening(out), latent_space.step_of(latent_space.home(out, experiment))
    if whitening is None or last is None:
        raise ValueError(f"{out} has lost its autoencoder; restore {out / latent_space.FOLDER}, or give another --out")
    if max(last, experiment.autoencoder.num_steps) != whitening.step:
        raise ValueError(
            f"{out / trained[0]} was trained on the latents of step {whitening.step} of the autoencoder; give "
            f"--autoencoder.num-steps {whitening.step}, or another --out"
        )


def check_networks(run: runs.Run, parts: Sequence[str]) -> None:
    """Raise ValueError for a network of latents that cannot be made, before the autoencoder is trained for a long time."""
    for part in parts if run.experiment.latent else ():
        init = functools.partial(networks.init, run.experiment, run.facts, run.networks, part)
        jax.eval_shape(init, jax.random.key(0))


def keep(run: runs.Run, out: Path, pictures: Sources, stop: Stop) -> Sources | None:
    """Return held_out -> the latents of the data, x = (z - shift) scale; None when `stop()` ended their computation.

    They are computed and written where they are not there. pictures: held_out -> the pictures. The held-out data is read
    where a network is evaluated on it. Of several processes the first computes.
    """
    trained = [getattr(run.experiment, part) for part in runs.PARTS]
    evaluated = any(settings.num_steps and settings.eval_every for settings in trained)
    splits = {held_out: pictures(held_out) for held_out in SPLITS if not held_out or evaluated}
    if parallel.primary() and not _keep(run, out, splits, stop):
        return None
    parallel.wait_for_all()
    whitening = latent_space.read_whitening(out)
    assert whitening is not None
    parallel.same_everywhere(whitening.step, f"latents in {out}; it has to be one directory, shared")
    return lambda held_out: _source(out, splits[held_out], SPLITS[held_out], whitening)


def _keep(run: runs.Run, out: Path, splits: dict[bool, data.Source], stop: Stop) -> bool:
    """Compute and write what is not there, and print a line on it; return whether all is there."""
    place = latent_space.home(out, run.experiment)
    step = latent_space.step_of(place)
    assert step is not None
    wanted, whitening = _describe(run, step, splits), latent_space.read_whitening(out)
    same = whitening is not None and whitening.step == step
    if same and _kept(out) == wanted:
        return True
    folder = out / WRITING
    shutil.rmtree(folder, ignore_errors=True)
    found = _compute_all(run, latent_space.load_weights(place, step), writable_directory(folder), splits, stop)
    if found is None:
        return False
    manifest.write(folder, wanted)
    if not same:
        latent_space.write_whitening(out, whiten(found[False], step))
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    os.replace(folder, out / FOLDER)
    shape, size = "x".join(map(str, run.model.shape)), sum(each.nbytes for each in found.values())
    count = sum(map(len, found.values()))
    print(f"{out / FOLDER}: {count} latents of {shape}, {size / 2**20:.1f} MiB, of step {step}", flush=True)
    return True


def _kept(out: Path) -> Any:
    """Return what the latents in a folder are of, None where there are none."""
    try:
        notes = manifest.read_notes(out / FOLDER)
    except ValueError:
        return None
    return notes if all((out / FOLDER / f"{split}.npy").exists() for split in notes["examples"]) else None


def _describe(run: runs.Run, step: int, splits: dict[bool, data.Source]) -> dict[str, Any]:
    """Return what the latents depend on, beside the settings that a run keeps."""
    return {
        "step": step,
        "dtype": run.experiment.autoencoder.latent_dtype,
        "held_out": run.experiment.data.held_out,
        "examples": {SPLITS[held_out]: len(source) for held_out, source in splits.items()},
    }


def _compute_all(
    run: runs.Run, params: Any, folder: Path, splits: dict[bool, data.Source], stop: Stop
) -> dict[bool, np.ndarray] | None:
    """Write the moments of every split; return them, or None when `stop()` ended it early."""
    encode, found = _make_encoder(run, params), {}
    for held_out, source in splits.items():
        written = _open(run, folder, source, held_out)
        if not _compute(run, encode, source, written, SPLITS[held_out], stop):
            return None
        found[held_out] = written
    return found


def _make_encoder(run: runs.Run, params: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return pictures (B, H, W, C) -> mean and standard deviation of z, (B, h, w, 2 c)."""
    network, size = run.networks.autoencoder, run.experiment.autoencoder.batch_size
    devices = parallel.local_devices(parallel.choose_devices(size, run.experiment.devices))

    def one(params: Any, image: Any) -> Any:
        mean, log_variance = network.apply(params, image, method="encode")
        return jnp.concatenate([mean, jnp.exp(log_variance / 2)], axis=-1)

    compiled = parallel.parallel_map(one, devices, in_axes=(None, 0))
    return functools.partial(compiled, parallel.replicate(params, devices))


def _open(run: runs.Run, folder: Path, source: data.Source, held_out: bool) -> np.ndarray:
    """Return the array of a split, new on disk."""
    height, width, channels = run.model.shape
    count = len(source) * (2 if run.flip and not held_out else 1)
    dtype = np.dtype(run.experiment.autoencoder.latent_dtype)
    path = folder / f"{SPLITS[held_out]}.npy"
    return np.lib.format.open_memmap(path, "w+", dtype, (count, height, width, 2 * channels))


def _compute(
    run: runs.Run,
    encode: Callable[[np.ndarray], np.ndarray],
    source: data.Source,
    written: np.ndarray,
    split: str,
    stop: Stop,
) -> bool:
    """Fill the array of a split with the moments; return False when `stop()` ended it early."""
    with progress.bar(len(written), f"latents of {split}", "picture") as bar:
        for rows, new in parallel.padded_chunks(len(written), run.experiment.autoencoder.batch_size):
            if stop():
                return False
            image = source.read(rows % len(source))["image"]
            mirrored = (rows >= len(source))[:, None, None, None]
            found = encode(data.scale(np.where(mirrored, image[:, :, ::-1], image)))[new]
            if not np.isfinite(found.astype(written.dtype)).all():
                raise ValueError(f"a latent does not fit into --autoencoder.latent-dtype {written.dtype}; give float32")
            written[rows[new]] = found
            bar.update(len(found))
    return True


def whiten(moments: np.ndarray, step: int) -> latent_space.Whitening:
    """Return shift = mean of z and scale = 1 / its standard deviation over examples, positions and draws, of each channel.

    moments: (N, h, w, 2 c). The variance of z is the mean of its posterior variances and the variance of their means.
    """
    count, total, square = 0, np.zeros(moments.shape[-1] // 2), np.zeros(moments.shape[-1] // 2)
    for start in range(0, len(moments), 4096):
        mean, std = np.split(np.asarray(moments[start : start + 4096], np.float64), 2, axis=-1)
        count += mean[..., 0].size
        total += mean.sum((0, 1, 2))
        square += (mean**2 + std**2).sum((0, 1, 2))
    shift = total / count
    std = np.sqrt(np.maximum(square / count - shift**2, 1e-12))
    return latent_space.Whitening(step, tuple(map(float, shift)), tuple(map(float, 1 / std)))


def _source(out: Path, pictures: data.Source, split: str, whitening: latent_space.Whitening) -> data.Source:
    """Return the latents of a split, with the labels of its pictures."""
    moments = np.load(out / FOLDER / f"{split}.npy", mmap_mode="r")
    shift, scale = whitening.arrays().values()
    both = np.concatenate([shift, np.zeros_like(shift)]), np.concatenate([scale, scale])

    def labels(rows: np.ndarray) -> np.ndarray:
        return pictures.read_labels(rows % len(pictures))

    of_text = pictures.labelling == "text"
    numbers = data.caption_numbers(pictures.captions or ())

    def read(rows: np.ndarray) -> data.Batch:
        found = (moments[rows].astype(np.float32) - both[0]) * both[1]
        kind = np.int32 if pictures.labelling == "class" else np.float32
        given = labels(rows) if of_text else np.asarray(labels(rows), kind)
        return {"image": found, "label": given} | ({"caption": numbers[rows % len(pictures)]} if of_text else {})

    return dataclasses.replace(
        pictures,
        size=len(moments),
        image_shape=moments.shape[1:],
        read=read,
        labels=labels,
        random_crop=False,
        dtype=np.dtype(np.float32),
    )


def of_posterior(loss: Loss) -> Loss:
    """Return the loss of x = mean + std eps, with batch["image"] = [mean, std] and an eps of each example's own key."""

    def call(params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        mean, std = jnp.split(batch["image"], 2, axis=-1)
        draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, DRAW), mean.shape[1:], mean.dtype))
        return loss(params, keys, {**batch, "image": mean + std * draw(keys)})

    return call
