"""Draw guided samples from a trained run.

guided-jax sample runs/digits --guidance classifier-free --scale 3 --labels 3 7 --num-samples 64 --out out/
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from guided_jax import parallel, sampler
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import diagnostics, samplers
from guided_jax.app.sample import guidances as methods
from guided_jax.app.sample import inverse as measurement
from guided_jax.app.sample.drawing import drawer
from guided_jax.app.sample.request import Sampling, check, determining, trained
from guided_jax.storage import images, streaming
from guided_jax.storage.files import replacing, writable_directory

NUM_SAMPLES = 64  # if no other number is asked for


def labels_for(indices: np.ndarray, labels: Sequence[int] | None, facts: runs.Facts, seed: int) -> np.ndarray:
    """The class of each sample: the given ones in turn, or a draw by the data's frequencies that depends on the index."""
    if labels:
        return np.asarray(labels)[indices % len(labels)]
    keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 1), indices)
    choose = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(jnp.asarray(facts.class_frequencies))))
    return np.asarray(choose(keys))


def request(options: Sampling) -> dict[str, Any]:
    """What determines the samples, for the file beside them."""
    return {name: value for name, value in determining(options).items() if name != "sweep"}


def destination(options: Sampling) -> Path:
    """The output folder, made; ValueError when it holds samples that another request drew."""
    method = options.method
    scale = "-".join(f"{scale:g}" for scale in options.scale)
    digest = hashlib.sha256(json.dumps(request(options)).encode()).hexdigest()[:6]  # of what the name leaves out
    name = f"{method.guidance}-{scale}-{method.step_name}-seed{options.seed}-{digest}"
    default = options.run / "samples" / name
    out = writable_directory(options.out or default)
    same = noted(out, options)
    if (out / "samples.npz").exists() and not same and not options.overwrite:
        raise ValueError(f"{out} holds other samples; give another --out, or --overwrite")
    for stale in () if same else ("measured.png", "diagnostics.npz", "diagnostics.png"):
        (out / stale).unlink(missing_ok=True)
    return out


def noted(out: Path, options: Sampling) -> bool:
    """Whether the request written down in a folder is this one."""
    made = out / "samples.json"
    return made.is_file() and made.read_text() == json.dumps(request(options), indent=2)


def answered(out: Path, options: Sampling) -> bool:
    """Whether a folder holds all samples of this request; what is only begun lies beside in .samples.partial."""
    whole = (out / "samples.npz").exists() and not (out / ".samples.partial").exists()
    return whole and noted(out, options)


def main(args: Sequence[str]) -> None:
    """Draws what the command line asks for and writes samples.npz, samples.json, grid.png and what else was asked."""
    if "--list" in args:
        print(methods.listing(), samplers.listing(), sep="\n\n")
        return
    options = cli.parse(Sampling, "guided-jax sample", args, description=__doc__)
    parallel.use_cpu_devices()
    run = runs.load(options.run)
    check(options, run)
    if options.sweep.sweep is not None:
        from guided_jax.app.sweep import (
            command as sweeping,  # what measures and judges, which drawing alone does not need
        )

        sweeping.sweep(options, run, writer)
        return
    options = dataclasses.replace(options, num_samples=options.num_samples or NUM_SAMPLES)
    out = writer(options, run)(options)
    print(f"{out / 'samples.npz'} and {out / 'grid.png'}: {options.num_samples} images")


def writer(options: Sampling, run: runs.Run) -> Callable[..., Path]:
    """(options, reuse, told) -> the folder with what they ask for, drawn; compiled once for all that differ from these in
    scale, seed and folder. With `reuse` a whole answer to the same request is not drawn again; `told` names the bar."""
    devices = parallel.choose_devices(options.batch_size, options.devices)
    sharded, steps = options.shard_parameters, trained(options)
    params = parameters(options, parallel.leaf_sharding(devices) if sharded else None)
    call = drawer(run, options.method, params, bool(options.labels), devices, options.diagnose, sharded)
    count = options.num_samples
    chunk = parallel.chunk_size(count, options.batch_size, devices)

    def write(options: Sampling, reuse: bool = False, told: str = "sampling") -> Path:
        look = looking(options, run)
        out = destination(options)
        if reuse and answered(out, options):
            return out
        begun = {**request(options), "steps": steps}  # what other weights began these do not finish
        stream, done = streaming.begin(out / "samples.npz", count, run.facts.image_shape, begun)
        draw = rows(options, run, call, look)
        with tqdm(total=count, initial=done, desc=told, unit="image", leave=not reuse) as bar:
            for indices, pictures, labels, observations in parallel.map_in_chunks(draw, count, chunk, done):
                if options.diagnose and indices[0] == 0:
                    diagnostics.save(out, observations, samplers.levels_of(options.method, run.levels))
                streaming.put(stream, int(indices[0]), pictures, labels)
                bar.update(len(pictures))
        save(stream, out, options, run, look)
        return out

    return write


def rows(
    options: Sampling, run: runs.Run, call: Callable[..., Any], look: measurement.Look | None
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, Any]]:
    """indices -> (indices, pictures, labels as the file has them, observations or None), by what was asked for."""
    base = None if options.base_samples is None else upsampled(options.base_samples, run)

    def draw(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
        labels, low_res = labels_for(indices, options.labels, run.facts, options.seed), None
        if base is not None:
            rows = indices % len(base[0])
            low_res = images.from_uint8(base[0][rows])
            labels = labels if options.labels or base[1] is None else base[1][rows]
        scales = np.asarray(options.scale)[indices // len(options.labels or (0,)) % len(options.scale)]
        found = call(indices, labels, scales, options.seed, look and look(indices), low_res)
        pictures, observations = found if options.diagnose else (found, None)
        return indices, pictures, recorded(options, run, labels), observations

    return draw


def upsampled(path: Path, run: runs.Run) -> tuple[np.ndarray, np.ndarray | None]:
    """(low-resolution pictures, their labels if they have any); ValueError for those that the run cannot start from."""
    pictures, labels = images.load_npz(path)
    side, classes = run.experiment.diffusion.low_res, run.facts.num_classes
    if pictures.shape[1:] != (side, side, run.facts.image_shape[-1]):
        raise ValueError(f"{path} has pictures of {pictures.shape[1:]}; the run starts from {side}x{side}")
    known = labels is not None and len(labels) and labels.min() >= 0 and labels.max() < classes
    return pictures, labels if known else None


def looking(options: Sampling, run: runs.Run) -> measurement.Look | None:
    """What the samples are measured by, None for a guidance that needs no measurement."""
    needed = "measurement" in options.method.row.needs
    return measurement.looking(options.method.measurement, run, options.seed) if needed else None


def parameters(options: Sampling, sharding: Any = None) -> dict[str, Any]:
    """The parameters of every network that the method asks, and of the classifier that --diagnose asks if there is one.

    sharding: leaf -> where it goes; one device if None.
    """
    method = options.method
    which = options.checkpoint
    found = {"diffusion": runs.params(options.run, "diffusion", sharding, which)}
    if "classifier" in method.row.needs or (options.diagnose and (options.run / "classifier" / "checkpoints").is_dir()):
        found["classifier"] = runs.params(options.run, "classifier", sharding, which)
    return {**found, "bad": runs.params(method.bad, "diffusion", sharding)} if method.bad else found


def recorded(options: Sampling, run: runs.Run, labels: np.ndarray) -> np.ndarray:
    """The labels as the file has them: -1 where nobody told the model a class, or several."""
    diffusion, method = run.experiment.diffusion, options.method
    told = options.labels or method.row.labelled or (diffusion.conditional and not diffusion.null_label)
    return labels if told and not method.any_of else np.full_like(labels, -1)


def save(
    stream: streaming.Stream, out: Path, options: Sampling, run: runs.Run, look: measurement.Look | None = None
) -> None:
    """Writes a grid of the first hundred, what was seen of them, the request that drew them, and last the samples."""
    first = np.array(stream.images[:100])
    images.save_png(out / "grid.png", images.grid(first, columns=10, scale=runs.zoom(run.facts)))
    if look:
        seen = measurement.picture(look(np.arange(len(first))), run.facts.image_shape)
        images.save_png(out / "measured.png", images.grid(seen, columns=10, scale=runs.zoom(run.facts)))
    with replacing(out / "samples.json") as file:
        file.write(json.dumps(request(options), indent=2).encode())
    streaming.finish(stream, out / "samples.npz")
