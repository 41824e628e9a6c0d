"""Draw guided samples from a trained run.

python sample.py runs/digits --guidance classifier-free --scale 3 --labels 3 7 --num-samples 64 --out out/
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from configs import command_line, methods
from configs import run as runs
from guided_jax import denoiser, guidance, images, parallel, reverse, sampler, schedule, streaming
from guided_jax.files import replacing, writable_directory


@dataclasses.dataclass(frozen=True)
class Method:
    """How to draw: the guidance and the sampler."""

    guidance: str = "none"
    """One of those that --list prints, such as classifier or classifier-free, then any of +interval +rescale +ramp
    +dynamic. none with --labels is the plain conditional model."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    steps: str = "50"
    """How many of the training steps to visit, by ADM's rules: 50, ddim50, or 10,15,20."""
    eta: float = 0.0
    """Noise of ddim: 0 none, 1 as much as ddpm."""
    variance: Literal["small", "large"] = "small"
    """Step variance of ddpm."""
    at: Literal["x_t", "mean"] = "x_t"
    """Where algorithm 1 takes the classifier's gradient."""
    clip: bool = True
    """Clip the (guided) predicted clean image to [-1, 1]."""
    interval_low: float = 0.0
    """+interval: guided above this sigma / alpha."""
    interval_high: float = 5.0
    """+interval: guided up to this sigma / alpha."""
    rescale_mix: float = 0.7
    """+rescale: 0 changes nothing, 1 is the whole."""
    negative: int | None = None
    """negative: the label to go away from."""
    momentum: float = -0.5
    """projected: of the direction, over the steps."""
    radius: float = 2.5
    """projected: the direction's greatest length."""
    blur: float = 1.0
    """self-attention: of x_0, in pixels."""
    bad: Path | None = None
    """autoguidance: the run of a smaller or less trained model."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draw guided samples from a trained run."""

    run: tyro.conf.Positional[Path]
    """The directory that train.py wrote."""
    method: tyro.conf.OmitArgPrefixes[Method] = dataclasses.field(default_factory=Method)
    scale: tuple[float, ...] = (1.0,)
    """Guidance strength: 0 ignores the label, 1 is the exact conditional, above 1 is sharper. Several: one for each
    round of the labels, in turn."""
    labels: tuple[int, ...] | None = None
    """Classes, in turn over the samples; without them they follow the data's frequencies."""
    num_samples: int = 64
    batch_size: int = 256
    """Images at a time, over all devices."""
    seed: int = 0
    out: Path | None = None
    """Where samples.npz and grid.png go; by default a folder inside the run, named after the method."""
    overwrite: bool = False
    """Replace other samples in the output folder."""
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""


Draw = Callable[[Any, Any, Any, Any], Any]  # (params, key, label, scale) -> image


def drawing(run: runs.Run, method: Method, labelled: bool) -> Draw:
    """(params, key, label, scale) -> one image (H, W, C) in [-1, 1]; params has "diffusion" and perhaps "classifier".

    labelled: whether the label counts when there is no guidance.
    """
    diffusion, shape = run.experiment.diffusion, run.facts.image_shape
    null = run.facts.num_classes if diffusion.null_label else None
    levels = schedule.respace(run.levels, method.steps)
    first, rest = methods.parse(method.guidance)
    inside = methods.GUIDANCES[first].clips_inside
    other = runs.load(method.bad) if method.bad else run

    def draw(params: Any, key: Any, label: Any, scale: Any) -> Any:
        key_noise, key_run, key_method = jax.random.split(key, 3)

        def model(y: Any, perturb: Any = None) -> denoiser.Denoiser:
            unet = run.unet if perturb is None else run.unet.clone(perturb=perturb)
            found = runs.denoiser_of(run, unet, params["diffusion"], y)
            return guidance.clip(found) if inside and method.clip else found

        def log_prob(x: Any, level: schedule.NoiseLevel) -> Any:
            logits = run.classifier.apply(params["classifier"], x, denoiser.network_time(level))
            return jax.nn.log_softmax(logits)[label]

        parts = methods.Parts(
            model=model,
            # The label itself where the network has no null label: then the scale counts from the conditional model.
            base=model(label if null is None else null),
            bad=lambda y: runs.denoiser_of(other, other.unet, params["bad"], y),
            log_prob=log_prob,
            label=label,
            null=null,
            labelled=labelled,
            scale=scale,
            key=key_method,
            num_classes=run.facts.num_classes,
            num_steps=run.levels.t[-1],
            knobs=method,
        )
        step = reverse.ddim(method.eta) if method.sampler == "ddim" else reverse.ddpm(method.variance)
        if method.guidance == "classifier" and method.sampler == "ddpm":
            guided, step = parts.base, reverse.classifier_ddpm(log_prob, scale, method.at, method.variance)
        else:
            guided = methods.build(method.guidance, parts)
        # Guided first, then clipped, unlike ADM's code: where alpha is 5e-5 a learned classifier's gradient, which is not
        # quite 0 there, shifts x_0 by thousands, and a few steps of ddim never come back from that.
        if method.clip and not inside:
            guided = methods.upon(guided, guidance.dynamic_threshold if "dynamic" in rest else guidance.clip)
        if isinstance(guided, guidance.Stateful):
            step, guided = reverse.with_state(guided, step), guidance.first_state(guided)
        x_T = schedule.at(levels, -1).sigma * jax.random.normal(key_noise, shape)
        return sampler.sample(key_run, guided, step, x_T, levels)

    return draw


def labels_for(indices: np.ndarray, labels: Sequence[int] | None, facts: runs.Facts, seed: int) -> np.ndarray:
    """The class of each sample: the given ones in turn, or a draw by the data's frequencies that depends on the index."""
    if labels:
        return np.asarray(labels)[indices % len(labels)]
    keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 1), indices)
    choose = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(jnp.asarray(facts.class_frequencies))))
    return np.asarray(choose(keys))


def drawer(
    run: runs.Run, method: Method, params: Any, labelled: bool, devices: list
) -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]:
    """(indices, labels, scales, seed) -> uint8 images: `drawing`, compiled once for a chunk over the devices."""
    compiled = parallel.parallel_map(drawing(run, method, labelled), devices, in_axes=(None, 0, 0, 0))
    placed = parallel.place(params, devices)

    def call(indices: np.ndarray, labels: np.ndarray, scales: np.ndarray, seed: int) -> np.ndarray:
        keys = sampler.keys(jax.random.fold_in(jax.random.key(seed), 0), indices)
        return images.to_uint8(compiled(placed, keys, labels.astype(np.int32), scales.astype(np.float32)))

    return call


def check(options: Sampling, run: runs.Run) -> None:
    """What can be wrong before anything is loaded, each in one sentence."""
    method, classes, diffusion = options.method, run.facts.num_classes, run.experiment.diffusion
    for name in ("num_samples", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    if not options.scale or not all(math.isfinite(scale) for scale in options.scale):
        raise ValueError(f"--scale is {options.scale}; give one or more finite numbers, such as --scale 2")
    if not 0 <= method.eta <= 1:
        raise ValueError(f"--eta is {method.eta}; give a number from 0 (no noise) to 1 (as ddpm)")
    wrong = [label for label in options.labels or () if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"label {wrong[0]} is out of range; the run has the classes 0 to {classes - 1}")
    needs = methods.GUIDANCES[methods.parse(method.guidance)[0]].needs
    if "null" in needs and not diffusion.null_label:
        raise ValueError("this run was trained without label dropout; use --guidance classifier, or train with dropout")
    if ("conditional" in needs or (method.guidance == "none" and options.labels)) and not diffusion.conditional:
        raise ValueError("this run's network takes no labels; use --guidance classifier, or leave --labels out")
    if "bad" in needs and method.bad is None:
        raise ValueError("autoguidance needs a second model; name its run with --bad RUN")
    if "negative" in needs and not 0 <= (-1 if method.negative is None else method.negative) < classes:
        raise ValueError(f"--negative is {method.negative}; name a class from 0 to {classes - 1} to go away from")
    schedule.respace(run.levels, method.steps)


def request(options: Sampling) -> dict[str, Any]:
    """What determines the samples, for the file beside them."""
    settings = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    return {
        name: value for name, value in settings.items() if name not in ("out", "overwrite", "devices", "batch_size")
    }


def destination(options: Sampling) -> Path:
    """The output folder, made; ValueError when it holds samples that another request drew."""
    method = options.method
    scale = "-".join(f"{scale:g}" for scale in options.scale)
    digest = hashlib.sha256(json.dumps(request(options)).encode()).hexdigest()[:6]  # of what the name leaves out
    name = f"{method.guidance}-{scale}-{method.sampler}{method.steps}-seed{options.seed}-{digest}"
    default = options.run / "samples" / name
    out = writable_directory(options.out or default)
    made = out / "samples.json"
    same = made.is_file() and made.read_text() == json.dumps(request(options), indent=2)
    if (out / "samples.npz").exists() and not same and not options.overwrite:
        raise ValueError(f"{out} holds other samples; give another --out, or --overwrite")
    return out


def main(args: Sequence[str]) -> None:
    """Draws what the command line asks for and writes samples.npz, samples.json and grid.png."""
    if "--list" in args:
        print(methods.listing())
        return
    options = command_line.parse(Sampling, "sample.py", args, description=__doc__)
    parallel.use_cpu_devices()
    run = runs.load(options.run)
    check(options, run)
    devices = parallel.choose_devices(options.batch_size, options.devices)
    out = destination(options)
    params = parameters(options.run, options.method)
    call = drawer(run, options.method, params, bool(options.labels), devices)
    # No more than is asked for, in whole rounds of the devices.
    chunk = min(options.batch_size, math.ceil(options.num_samples / len(devices)) * len(devices))
    stream, done = streaming.begin(out / "samples.npz", options.num_samples, run.facts.image_shape, request(options))

    def draw(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = labels_for(indices, options.labels, run.facts, options.seed)
        scales = np.asarray(options.scale)[indices // len(options.labels or (0,)) % len(options.scale)]
        return indices, call(indices, labels, scales, options.seed), recorded(options, run, labels)

    with tqdm(total=options.num_samples, initial=done, desc="sampling", unit="image") as bar:
        for indices, pictures, labels in parallel.map_in_chunks(draw, options.num_samples, chunk, done):
            streaming.put(stream, int(indices[0]), pictures, labels)
            bar.update(len(pictures))
    save(stream, out, options, run)
    print(f"{out / 'samples.npz'} and {out / 'grid.png'}: {options.num_samples} images")


def parameters(run: Path, method: Method) -> dict[str, Any]:
    """The parameters of every network that the method asks."""
    needs = methods.GUIDANCES[methods.parse(method.guidance)[0]].needs
    parts = {part: runs.params(run, part) for part in ("diffusion", *(["classifier"] if "classifier" in needs else []))}
    return {**parts, "bad": runs.params(method.bad, "diffusion")} if method.bad else parts


def recorded(options: Sampling, run: runs.Run, labels: np.ndarray) -> np.ndarray:
    """The labels as the file has them: -1 where nobody told the model a class."""
    diffusion = run.experiment.diffusion
    untold = not options.labels and (diffusion.null_label or not diffusion.conditional)
    return np.full_like(labels, -1) if options.method.guidance == "none" and untold else labels


def save(stream: streaming.Stream, out: Path, options: Sampling, run: runs.Run) -> None:
    """Writes a grid of the first hundred, the request that drew the samples, and last the samples themselves."""
    images.save_png(out / "grid.png", images.grid(np.array(stream.images[:100]), columns=10, scale=zoom(run.facts)))
    with replacing(out / "samples.json") as file:
        file.write(json.dumps(request(options), indent=2).encode())
    streaming.finish(stream, out / "samples.npz")


def zoom(facts: runs.Facts) -> int:
    """How many times to enlarge a picture so that small ones can be looked at."""
    return max(1, 48 // facts.image_shape[0])


if __name__ == "__main__":
    command_line.script(main)
