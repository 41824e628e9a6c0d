"""A run: a diffusion model with what the commands need of it, from a run directory or of your own.

A run directory holds config.json, and for each network its checkpoints, metrics and curves. It alone is enough to sample.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from guided_jax import data, denoiser, model
from guided_jax.app import best_checkpoint, facts, own_data, pixel_model, settings
from guided_jax.app.facts import Facts
from guided_jax.model import Model
from guided_jax.storage import checkpoint, compare
from guided_jax.storage.files import replacing, writable_directory

Which = Literal["last", "best"]  # of the checkpoints of a network
PARTS = ("diffusion", "classifier")  # the networks of a run that is trained here


def _same(value: Any) -> Any:
    return value


class Run(NamedTuple):
    """A diffusion model and what the commands need of it.

    model: what is drawn from. facts: the shape of its images and the conditions that there are.
    params: (part, sharding=None, which="last") -> the parameters of "diffusion" or "classifier"; ValueError where there
        are none.
    raw: label -> the raw condition that it numbers, which `model.condition` takes; for classes the label itself.
    conditional: whether the network takes a condition.
    bounded: whether x_0 lies in [-bound, bound], and predictions of it are clipped there.
    classifier: (params, x_t, level) -> logits of a classifier of noisy examples, if there is one.
    variant: (perturb, low_res, estimate) -> a network in the place of `model.network`: with another attention, an
        upsampler of that picture, told that estimate; None for a network that has no variants.
    low_res: the side of the pictures that an upsampler starts from. self_conditioning: whether the network takes its last
        predicted x_0.
    prepare: (part, params) -> the params as the network computes with them, once for all steps.
    source: held_out -> the data, to measure against and to take true pictures from. flip: whether it may be mirrored.
    trained: which -> part -> the step of its checkpoint.
    experiment, networks: what it is trained by; None for a model that is not trained here.
    """

    model: Model
    facts: Facts
    params: Callable[..., Any]
    raw: Callable[[Any], Any] = _same
    conditional: bool = True
    bounded: bool = True
    bound: float = 1.0
    classifier: Callable[..., Any] | None = None
    variant: Callable[..., Any] | None = None
    low_res: int | None = None
    self_conditioning: bool = False
    prepare: Callable[[str, Any], Any] = lambda part, params: params
    source: Callable[[bool], data.Source] | None = None
    flip: bool = False
    trained: Callable[[Which], dict[str, int | None]] = lambda which: {}
    experiment: Any = None
    networks: Any = None


def from_params(model: Model, known: Facts, given: Mapping[str, Any], **fields: Any) -> Run:
    """Return the run of a model of your own, whose parameters are given: every command's function takes it.

    given: "diffusion" -> the parameters of the network, and "classifier" -> those of the classifier if there is one.
    fields: the other fields of `Run`.
    """

    def params(part: str, sharding: Any = None, which: Which = "last") -> Any:
        if part not in given:
            raise ValueError(f"this model has no {part}; give from_params its parameters")
        return given[part]

    return Run(model, known, params, **fields)


def make_denoiser(
    run: Run, params: Any, raw: Any, perturb: Any = None, low_res: Any = None, estimate: Any = None
) -> denoiser.Denoiser:
    """Return the denoiser that the run's model is for a raw condition; the other arguments as of `Run.variant`."""
    own = run.model
    if perturb is not None or low_res is not None or estimate is not None:
        if run.variant is None:
            raise ValueError("this network has no variants, which a guidance by perturbed attention needs")
        own = own._replace(network=run.variant(perturb, low_res, estimate))
    return model.denoiser(own, params, own.condition(params, raw))


def source(run: Run, held_out: bool = False) -> data.Source:
    """Return the run's own data, to train with or held out; ValueError for a run that has none."""
    if run.source is None:
        raise ValueError("this run has no data of its own; name pictures in a file instead")
    return run.source(held_out)


def assemble(experiment: settings.Experiment, known: Facts, directory: Path | None = None) -> Run:
    """Return the run that the settings and the data make; with its parameters if it is given its directory."""
    networks = pixel_model.make_networks(experiment, known)
    diffusion = experiment.diffusion
    return Run(
        pixel_model.make_model(experiment, known, networks.unet),
        known,
        functools.partial(params, directory),
        conditional=diffusion.conditional,
        raw=functools.partial(pixel_model.raw, known),
        classifier=pixel_model.make_logits(networks.classifier) if known.labelling == "class" else None,
        variant=functools.partial(pixel_model.make_network, diffusion, networks.unet),
        bound=known.bound or 1.0,
        low_res=diffusion.low_res,
        self_conditioning=diffusion.self_conditioning,
        prepare=functools.partial(pixel_model.prepare, experiment, known, networks),
        source=experiment.data.make,
        flip=experiment.data.flip,
        trained=functools.partial(trained, directory),
        experiment=experiment,
        networks=networks,
    )


def adopt(experiment: settings.Experiment) -> settings.Experiment:
    """Return the experiment with the schedule and diffusion settings of the run that `diffusion.from_run` names, if any."""
    source = experiment.diffusion.from_run
    if source is None:
        return experiment
    if experiment.diffusion.num_steps:
        raise ValueError(f"--diffusion.from {source} is for training a classifier alone; add --diffusion.num-steps 0")
    other = load(source).experiment
    params(source, "diffusion")
    own = {"num_steps": 0, "from_run": source.absolute(), "init_from": None}
    diffusion = dataclasses.replace(other.diffusion, **own)
    return dataclasses.replace(experiment, schedule=other.schedule, diffusion=diffusion)


def _check_fit(experiment: settings.Experiment, known: Facts) -> None:
    """Raise ValueError when the data is not what the adopted diffusion model was trained on."""
    if experiment.diffusion.from_run is not None:
        other = load(experiment.diffusion.from_run).facts
        facts.check_classes(known, "a classifier", "leave out --diffusion.from")
        mine, its = ((each.image_shape, each.num_classes) for each in (known, other))
        if mine != its:
            raise ValueError(f"the data has shape and classes {mine}, {experiment.diffusion.from_run} has {its}")


def create(directory: Path, experiment: settings.Experiment, known: Facts) -> Run:
    """Write config.json, or check it if it is there: ValueError names the fields in which another run differs."""
    _check_fit(experiment, known)
    path = writable_directory(directory) / "config.json"
    config = {"experiment": settings.to_dict(experiment), "facts": known._asdict()}
    if path.exists():
        found = _read(path)
        saved = settings.to_dict(
            settings.from_dict(found["experiment"])
        )  # settings of newer versions at their defaults
        differing = compare.differences(saved, config["experiment"], settings.MAY_CHANGE)
        if differing:
            raise ValueError(f"{directory} holds another run ({'; '.join(differing)}); give another --out")
        _check_data(directory, found["facts"], known)
    run = assemble(experiment, known, directory)
    with replacing(path) as file:
        file.write(json.dumps(config, indent=2).encode())
    return run


def _check_data(directory: Path, saved: dict[str, Any], known: Facts) -> None:
    """Raise ValueError when examples came or went since the run began: the position in the data would be another."""
    unknown = [name for name in Facts._fields if saved.get(name) is None]
    if compare.differences(saved, known._asdict(), unknown):
        named = compare.differences(saved, known._asdict(), [*unknown, "class_frequencies", "class_names"])
        what = "; ".join(named) or "as many examples, of other classes"
        raise ValueError(f"the data is not what {directory} began with ({what}); restore it, or give another --out")


def load(directory: Path, data_dir: Path | None = None) -> Run:
    """Return the run that a directory holds; ValueError when it holds none.

    data_dir: the folder that holds the data of the run, where that was moved since it was trained.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} is not a run: it has no config.json; train one with 'guided-jax train digits'")
    found = _read(path)
    experiment, known = settings.from_dict(found["experiment"]), facts.of_json(found["facts"])
    read = own_data.make_reader(experiment.data, known, directory, data_dir)
    return assemble(experiment, known, directory)._replace(source=read)


def params(directory: Path | None, part: str, sharding: Any = None, which: Which = "last") -> Any:
    """Return the averaged parameters of the "diffusion" or the "classifier" network of a run directory.

    sharding: where each leaf goes, as for `checkpoint.load_params`. Raises ValueError when the network was not trained, and
    when the best of its checkpoints is asked for and none was measured.
    """
    if directory is None:
        raise ValueError(f"this run has no directory, and so no parameters of its {part} network")
    directory = _home(directory, part)
    step = None if which == "last" else step_of(directory, part, which)
    if which == "best" and step is None and checkpoint.latest(directory / part / "checkpoints") is not None:
        metric = _settings(directory, part).keep_best_by
        raise ValueError(f"{directory} has no {part} checkpoint with {metric}; leave out --checkpoint best")
    with _trained(directory, part):
        return checkpoint.load_params(directory / part / "checkpoints", "ema", step, sharding)


def param_shapes(directory: Path, part: str) -> Any:
    """Return the shapes of what `params` reads from the last checkpoint, without reading it."""
    directory = _home(directory, part)
    with _trained(directory, part):
        return checkpoint.param_shapes(directory / part / "checkpoints")


@contextlib.contextmanager
def _trained(directory: Path, part: str) -> Iterator[None]:
    """Raise ValueError when the network has no checkpoint."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(
            f"{directory} has no trained {part} network; train it with --{part}.num-steps above 0"
        ) from None


def trained(directory: Path | None, which: Which) -> dict[str, int | None]:
    """Return how far each network was trained; None for one that there is not."""
    return {part: step_of(directory, part, which) for part in PARTS} if directory else {}


def step_of(directory: Path, part: str, which: Which) -> int | None:
    """Return the step of the last or the best checkpoint of a network, None where there is none."""
    directory = _home(directory, part)
    place, metric = directory / part / "checkpoints", _settings(directory, part).keep_best_by
    return (
        checkpoint.latest(place) if which == "last" else checkpoint.best(place, metric, best_checkpoint.highest(metric))
    )


def _settings(directory: Path, part: str) -> Any:
    return getattr(settings.from_dict(_read(directory / "config.json")["experiment"]), part)


def _home(directory: Path, part: str) -> Path:
    """Return where that network was trained: at times in another run."""
    adopted = _read(directory / "config.json")["experiment"].get("diffusion", {}).get("from_run")
    return Path(adopted) if part == "diffusion" and adopted else directory


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {"experiment": found["experiment"], "facts": found["facts"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or train again with another --out") from None
