"""A run directory: config.json, and for each network its checkpoints, metrics and curves. It alone is enough to sample."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from guided_jax import denoiser, models, schedule
from guided_jax.app import best_checkpoint as keeping
from guided_jax.app import settings as schema
from guided_jax.storage import checkpoint, images
from guided_jax.storage.files import replacing, writable_directory

Which = Literal["last", "best"]  # of the checkpoints of a network
Variance = Literal["small", "large", "learned"]  # of a step of ddpm


class Facts(NamedTuple):
    """What the data told the run: sampling needs it and has no data."""

    image_shape: tuple[int, int, int]
    num_classes: int
    class_frequencies: tuple[float, ...]
    num_examples: int | None = None
    """None in runs that began before it was written down."""


class Run(NamedTuple):
    """An experiment with its networks, made and not yet loaded."""

    experiment: schema.Experiment
    facts: Facts
    levels: schedule.NoiseLevel
    unet: models.UNet
    classifier: models.Classifier


def assemble(experiment: schema.Experiment, facts: Facts) -> Run:
    """The networks and levels that the settings and the data ask for."""
    diffusion = experiment.diffusion
    classes = facts.num_classes if diffusion.conditional else None
    channels = facts.image_shape[-1] * (2 if diffusion.learned_variance else 1)
    return Run(
        experiment,
        facts,
        experiment.schedule.make(),
        diffusion.network.make(channels, classes, diffusion.null_label),
        experiment.classifier.network.make(facts.num_classes),
    )


def adopt(experiment: schema.Experiment) -> schema.Experiment:
    """The experiment with the schedule and the diffusion settings of the run that `diffusion.from_run` names, if any."""
    source = experiment.diffusion.from_run
    if source is None:
        return experiment
    if experiment.diffusion.num_steps:
        raise ValueError(f"--diffusion.from {source} is for training a classifier alone; add --diffusion.num-steps 0")
    other = load(source).experiment
    params(source, "diffusion")
    diffusion = dataclasses.replace(other.diffusion, num_steps=0, from_run=source.absolute())
    return dataclasses.replace(experiment, schedule=other.schedule, diffusion=diffusion)


def _check_fit(experiment: schema.Experiment, facts: Facts) -> None:
    """ValueError when the data is not what the adopted diffusion model was trained on."""
    if experiment.diffusion.from_run is not None:
        other = load(experiment.diffusion.from_run).facts
        mine, its = ((f.image_shape, f.num_classes) for f in (facts, other))
        if mine != its:
            raise ValueError(f"the data has shape and classes {mine}, {experiment.diffusion.from_run} has {its}")


def create(directory: Path, experiment: schema.Experiment, facts: Facts) -> Run:
    """Writes config.json, or checks it if it is there: ValueError names the fields in which another run differs."""
    _check_fit(experiment, facts)
    path = writable_directory(directory) / "config.json"
    config = {"experiment": schema.to_dict(experiment), "facts": facts._asdict()}
    if path.exists():
        found = _read(path)
        saved = schema.to_dict(schema.from_dict(found["experiment"]))  # with what newer versions added, as it comes
        differing = checkpoint.differences(saved, config["experiment"], schema.MAY_CHANGE)
        if differing:
            raise ValueError(f"{directory} holds another run ({'; '.join(differing)}); give another --out")
        _check_data(directory, found["facts"], facts)
    run = assemble(experiment, facts)
    with replacing(path) as file:
        file.write(json.dumps(config, indent=2).encode())
    return run


def _check_data(directory: Path, saved: dict[str, Any], facts: Facts) -> None:
    """ValueError when examples came or went since the run began: the position in the data would be another."""
    unsaid = [name for name in Facts._fields if saved.get(name) is None]
    if checkpoint.differences(saved, facts._asdict(), unsaid):
        told = checkpoint.differences(saved, facts._asdict(), [*unsaid, "class_frequencies"])
        said = "; ".join(told) or "as many examples, of other classes"
        raise ValueError(f"the data is not what {directory} began with ({said}); restore it, or give another --out")


def load(directory: Path) -> Run:
    """The run that a directory holds; ValueError when it holds none."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} is not a run: it has no config.json; train one with 'guided-jax train digits'")
    found = _read(path)
    facts = found["facts"]
    height, width, channels = facts["image_shape"]
    frequencies = tuple(facts["class_frequencies"])
    kept = Facts((height, width, channels), facts["num_classes"], frequencies, facts.get("num_examples"))
    return assemble(schema.from_dict(found["experiment"]), kept)


def denoiser_of(
    run: Run, unet: models.UNet, params: Any, label: Any, low_res: Any = None, estimate: Any = None
) -> denoiser.Denoiser:
    """The denoiser that the run's network is with these parameters, told this label and picture if it takes any.

    estimate: the last x_0, for a network with self-conditioning; None is zeros, which is what its first step is told.
    """
    diffusion = run.experiment.diffusion
    told = label if diffusion.conditional else None

    def network(x: Any, t: Any) -> Any:
        return unet.apply(params, beside(diffusion, x, estimate), t, told, low_res)

    return denoiser.from_network(network, diffusion.parameterization, diffusion.learned_variance)


def beside(diffusion: schema.Diffusion, x: Any, estimate: Any = None) -> Any:
    """[x_t, the last x_0] channel by channel, for a network with self-conditioning; x_t alone for another."""
    if not diffusion.self_conditioning:
        return x
    return jnp.concatenate([x, jnp.zeros_like(x) if estimate is None else estimate.astype(x.dtype)], axis=-1)


def example(run: Run, part: str) -> tuple[Any, ...]:
    """What that network is called with beside its params, a batch of one: x_t, t, and for "diffusion" what it is told."""
    x, t, diffusion = jnp.zeros((1, *run.facts.image_shape)), jnp.zeros(1), run.experiment.diffusion
    if part == "classifier":
        return x, t
    label = jnp.zeros(1, jnp.int32) if diffusion.conditional else None
    return beside(diffusion, x), t, label, images.shrink(x, diffusion.low_res) if diffusion.low_res else None


def variance_of(run: Run, asked: Variance | None) -> Variance:
    """The step variance that is asked for, or the run's own: "learned" if its network learned one, else "small".

    ValueError for a learned one of a network that learned none.
    """
    learned = run.experiment.diffusion.learned_variance
    if asked == "learned" and not learned:
        raise ValueError("this run's network did not learn a variance; use --variance small or large")
    return asked or ("learned" if learned else "small")


def params(directory: Path, part: str, sharding: Any = None, which: Which = "last") -> Any:
    """The averaged parameters of the "diffusion" or the "classifier" network; ValueError when it was not trained, or the
    best of its checkpoints is asked for and none was measured.

    sharding: where each leaf goes, as for `checkpoint.load_params`.
    """
    directory = _home(directory, part)
    step = None if which == "last" else step_of(directory, part, which)
    if which == "best" and step is None and checkpoint.latest(directory / part / "checkpoints") is not None:
        metric = _settings(directory, part).keep_best_by
        raise ValueError(f"{directory} has no {part} checkpoint with {metric}; leave out --checkpoint best")
    try:
        return checkpoint.load_params(directory / part / "checkpoints", "ema", step, sharding)
    except FileNotFoundError:
        raise ValueError(
            f"{directory} has no trained {part} network; train it with --{part}.num-steps above 0"
        ) from None


def step_of(directory: Path, part: str, which: Which) -> int | None:
    """The step of the last or the best checkpoint of a network, None where there is none."""
    directory = _home(directory, part)
    place, metric = directory / part / "checkpoints", _settings(directory, part).keep_best_by
    return checkpoint.latest(place) if which == "last" else checkpoint.best(place, metric, keeping.highest(metric))


def _settings(directory: Path, part: str) -> Any:
    return getattr(schema.from_dict(_read(directory / "config.json")["experiment"]), part)


def _home(directory: Path, part: str) -> Path:
    """Where that network was trained: at times in another run."""
    adopted = _read(directory / "config.json")["experiment"].get("diffusion", {}).get("from_run")
    return Path(adopted) if part == "diffusion" and adopted else directory


def facts_of(source: Any, frequencies: np.ndarray) -> Facts:
    """What a data source tells a run."""
    height, width, channels = (int(size) for size in source.image_shape)
    shares = tuple(float(share) for share in frequencies)
    return Facts((height, width, channels), int(source.num_classes), shares, len(source))


def zoom(facts: Facts) -> int:
    """How many times to enlarge a picture so that small ones can be looked at."""
    return max(1, 48 // facts.image_shape[0])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {"experiment": found["experiment"], "facts": found["facts"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or train again with another --out") from None
