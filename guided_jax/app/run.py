"""A run: a diffusion model with what the commands need of it, from a run directory or of your own.

A run directory holds config.json, and for each network its checkpoints, metrics and curves. It alone is enough to sample.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from guided_jax import data, denoiser, model, parallel
from guided_jax.app import (
    config_file,
    latent_space,
    network_fields,
    networks,
    own_data,
    presets,
    published_model,
    settings,
    trained_model,
    trained_weights,
)
from guided_jax.app.facts import Facts
from guided_jax.app.network_fields import Field
from guided_jax.app.trained_weights import Which
from guided_jax.model import Model
from guided_jax.storage import checkpoint

PARTS = settings.PARTS


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
    variant: (fields, low_res, estimate) -> a network in the place of `model.network`: with other fields of its module, an
        upsampler of that picture, told that estimate; None for a network that has no variants. fields: those that a
        guidance may change. attention: (params, x, time, condition, low_res, estimate) -> the attention to each pixel of
        x, (h, w), of mean 1; None for a network that has none to read.
    low_res: the side of the pictures that an upsampler starts from. self_conditioning: whether the network takes its last
        predicted x_0.
    prepare: (part, params) -> the params as the network computes with them, once for all steps.
    text: what a text-to-image model is told; None for any other. null: label -> the raw condition of no label beside it,
        such as its negative prompt; None where `model.null` is that of all. scheduler: of a published model its own, as
        the config.json of a scheduler of diffusers has it.
    merge_lora: of a Stable Diffusion, (params, state_dict, multiplier) -> the params with a LoRA merged in. load_control:
        folder of a ControlNet -> (network -> the network with it beside, its params).
    complete: weights of the diffusion network -> the params of the model: the weights, or those of its autoencoder too.
    scales: the least and the greatest guidance scale that the network is told; None for one that is told none.
    data_std: the standard deviation of x, about: 0.5 of pictures in [-1, 1].
    decode_size: how many examples `model.decode` takes at once on each device, after all steps; None for all of them.
    source: held_out -> the data, if any, to measure against and take true pictures from. flip: whether it may be mirrored.
    trained: which -> part -> the step of its checkpoint. bad: the run of the worse model that autoguidance draws away from.
    judge: a `metrics.judge.TrainedJudge`, and clip: a `metrics.clip.Scorer`, which guide by pictures. criterion: (picture
        or x_0, level) -> scalar, which guides in the place of a classifier.
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
    fields: Mapping[str, Field] = {}
    attention: Callable[..., Any] | None = None
    low_res: int | None = None
    self_conditioning: bool = False
    prepare: Callable[[str, Any], Any] = lambda part, params: params
    complete: Callable[..., Any] = _same
    merge_lora: Callable[[Any, Any, float], Any] | None = None
    load_control: Callable[[Path], tuple[Any, Any]] | None = None
    scales: tuple[float, float] | None = None
    data_std: float = 0.5
    decode_size: int | None = None
    text: published_model.TextModel | None = None
    null: Callable[[Any], Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    source: Callable[[bool], data.Source] | None = None
    flip: bool = False
    trained: Callable[[Which], dict[str, int | None]] = lambda which: {}
    experiment: Any = None
    networks: Any = None
    bad: Any = None
    judge: Any = None
    clip: Any = None
    criterion: Callable[..., Any] | None = None

    @property
    def latent(self) -> bool:
        """Whether x is not the picture, but what an autoencoder makes of it."""
        return self.decode_size is not None or self.model.shape != self.facts.image_shape


def from_params(model: Model, facts: Facts, given: Mapping[str, Any], **fields: Any) -> Run:
    """Return the run of a model of your own, whose parameters are given: every command's function takes it.

    given: "diffusion" -> the parameters of the network, and "classifier" -> those of the classifier if there is one.
    fields: the other fields of `Run`.
    """

    def params(part: str, sharding: Any = None, which: Which = "last") -> Any:
        if part not in given:
            raise ValueError(f"this model has no {part}; give from_params its parameters")
        return given[part]

    return Run(model, facts, params, **fields)


def make_denoiser(
    run: Run, params: Any, condition: Any, fields: Any = None, low_res: Any = None, estimate: Any = None
) -> denoiser.Denoiser:
    """Return `model.denoiser` of the run's model; fields, low_res, estimate: as of `Run.variant`."""
    own = run.model
    if fields or low_res is not None or estimate is not None:
        if run.variant is None:
            raise ValueError("this network has no variants, which a guidance by perturbed attention needs")
        own = own._replace(network=run.variant(fields or {}, low_res, estimate))
    return model.denoiser(own, params, condition)


def source(run: Run, held_out: bool = False) -> data.Source:
    """Return the run's own data, to train with or held out; ValueError for a run that has none."""
    if run.source is None:
        raise ValueError("this run has no data of its own; name pictures in a file instead")
    return run.source(held_out)


def assemble(experiment: settings.Experiment, facts: Facts, directory: Path | None = None) -> Run:
    """Return the run that the settings and the data make; with its parameters if it is given its directory."""
    modules, diffusion = networks.make_networks(experiment, facts), experiment.diffusion
    return Run(
        trained_model.make_model(experiment, facts, modules),
        facts,
        functools.partial(_load_params, directory, experiment),
        conditional=diffusion.conditional,
        raw=functools.partial(trained_model.raw, facts),
        bounded=not experiment.latent,
        classifier=trained_model.make_logits(experiment, modules.classifier) if facts.labelling == "class" else None,
        variant=trained_model.make_variant(experiment, modules),
        fields=network_fields.of_module(modules.diffusion),
        attention=trained_model.make_attention(experiment, modules),
        data_std=1.0 if experiment.latent else 0.5,
        bound=facts.bound or 1.0,
        low_res=diffusion.low_res,
        scales=None if diffusion.distill_from is None else diffusion.distill_scales,
        self_conditioning=diffusion.self_conditioning,
        prepare=functools.partial(networks.prepare, experiment, facts, modules),
        text=trained_model.make_text(experiment, facts, modules),
        complete=functools.partial(latent_space.complete, directory, experiment) if experiment.latent else _same,
        decode_size=latent_space.DECODE_SIZE if experiment.latent else None,
        source=None if experiment.data.name == settings.NO_DATA else functools.cache(experiment.data.make),
        flip=experiment.data.flip,
        trained=functools.partial(trained_weights.steps, directory, experiment),
        experiment=experiment,
        networks=modules,
    )


def assemble_published(
    published: config_file.Published, facts: Facts, directory: Path, load: Callable[[Any], Any], step: int | None
) -> Run:
    """Return the run of a published model.

    load: sharding -> its parameters. step: of the checkpoint that they are of.
    """

    def params(part: str, sharding: Any = None, which: Which = "last") -> Any:
        if part != "diffusion" or which != "last":
            raise ValueError(f"{directory} is a published model, which has no {part} network of its {which} checkpoint")
        return load(sharding)

    description, dtype = published.description, published.dtype
    return Run(
        published_model.make_model(description, dtype),
        facts,
        params,
        conditional=published_model.is_conditional(description),
        bounded=description.latents is None and facts.kind == "pictures",
        variant=functools.partial(published_model.make_variant, description, dtype),
        fields=published_model.fields(description),
        attention=published_model.make_attention(description, dtype),
        data_std=published_model.data_std(description),
        prepare=functools.partial(published_model.prepare, description, dtype),
        text=published_model.make_text(description, directory),
        scheduler=description.schedule if "_class_name" in description.schedule else None,
        merge_lora=published_model.make_merge_lora(description),
        load_control=published_model.make_load_control(description, dtype),
        decode_size=None if description.latents is None else published_model.DECODE_SIZE,
        trained=lambda which: {"diffusion": step, "classifier": None},
    )


def adopt(experiment: settings.Experiment) -> settings.Experiment:
    """Return the experiment with the schedule and diffusion settings of the run that `diffusion.from_run` names, if any."""
    source = experiment.diffusion.from_run
    if source is None:
        return experiment
    if experiment.diffusion.num_steps:
        raise ValueError(f"--diffusion.from {source} is for training a classifier alone; add --diffusion.num-steps 0")
    other = config_file.experiment_of(source)
    if other.latent or experiment.latent or experiment.autoencoder.from_run:
        raise ValueError(
            f"--diffusion.from {source} is for models of pixels; train the classifier of a model of latents with it, by "
            "its own command and --classifier.num-steps above 0"
        )
    home, _ = trained_weights.home(source, other, "diffusion")
    if checkpoint.latest(trained_weights.checkpoints(home, "diffusion")) is None:
        raise trained_weights.untrained(home, "diffusion")
    own: dict[str, Any] = {"num_steps": 0, "from_run": home.absolute(), "init_from": None}
    diffusion = dataclasses.replace(other.diffusion, **own)
    return dataclasses.replace(experiment, schedule=other.schedule, diffusion=diffusion)


def load(directory: Path, data_dir: Path | None = None) -> Run:
    """Return the run that a directory holds, or the published model of a folder of diffusers; ValueError when it is none.

    data_dir: the folder that holds the data of the run, where that was moved since it was trained.
    """
    if published_model.is_folder(directory):
        return _load_folder(directory)
    facts, experiment, published = config_file.read(config_file.path_of(directory))
    if published is not None:
        return _load_published(published, facts, directory)
    assert experiment is not None
    read = own_data.make_reader(experiment.data, facts, directory, data_dir)
    return assemble(experiment, facts, directory)._replace(source=read)


def _load_published(published: config_file.Published, facts: Facts, directory: Path) -> Run:
    """Return the run that `guided-jax convert` made."""
    saved = trained_weights.checkpoints(directory, "diffusion")

    def load_params(sharding: Any) -> Any:
        with trained_weights.trained(directory, "diffusion"):
            return checkpoint.load_params(saved, "ema", None, sharding)

    return assemble_published(published, facts, directory, load_params, checkpoint.latest(saved))


def _load_folder(directory: Path) -> Run:
    """Return the run of a folder of diffusers, whose weights are read as they are."""
    description, load_weights = published_model.read_folder(directory)

    def load_params(sharding: Any) -> Any:
        return parallel.place_leaves(load_weights(), sharding)

    facts = published_model.facts_of(description)
    return assemble_published(config_file.Published(description), facts, directory, load_params, step=1)


def preset(directory: Path) -> tuple[str, ...]:
    """Return the options that the authors of a published model sampled it with; none for a run that was trained here."""
    if published_model.is_folder(directory):
        return presets.of(published_model.read_folder(directory).description).options
    found = config_file.read(config_file.path_of(directory)).published
    return () if found is None else found.preset


def text_towers(directory: Path) -> list[Any]:
    """Return the params of the text towers that a run is conditioned by; none for a run that has no tower.

    The other parameters are not read. Errors as of `load` and of `Run.params`.
    """
    if published_model.is_folder(directory):
        return published_model.read_text_towers(directory)
    found = config_file.read(config_file.path_of(directory)).published
    if found is None or found.description.text is None:
        return []
    with trained_weights.trained(directory, "diffusion"):
        saved = trained_weights.checkpoints(directory, "diffusion")
        return checkpoint.load_params(saved, "ema", only=("text",))["text"]


def params(directory: Path, part: str, sharding: Any = None, which: Which = "last") -> Any:
    """Return the averaged parameters of the "diffusion", "classifier" or "autoencoder" network of a run directory.

    sharding: where each leaf goes, as for `checkpoint.load_params`. Raises ValueError when the network was not trained, and
    when the best of its checkpoints is asked for and none was measured.
    """
    return trained_weights.load_weights(directory, config_file.experiment_of(directory), part, sharding, which)


def _load_params(
    directory: Path | None, experiment: settings.Experiment, part: str, sharding: Any = None, which: Which = "last"
) -> Any:
    """Return `Run.params` of a run with this experiment."""
    if directory is None:
        raise ValueError(f"this run has no directory, and so no parameters of its {part} network")
    found = trained_weights.load_weights(directory, experiment, part, sharding, which)
    of_latents = part == "diffusion" and experiment.latent
    return latent_space.complete(directory, experiment, found, sharding) if of_latents else found


def param_shapes(directory: Path, part: str) -> Any:
    """Return the shapes of what `params` reads from the last checkpoint, without reading it."""
    place, _ = trained_weights.home(directory, config_file.experiment_of(directory), part)
    with trained_weights.trained(place, part):
        return checkpoint.param_shapes(trained_weights.checkpoints(place, part))


def step_of(directory: Path, part: str, which: Which) -> int | None:
    """Return the step of the last or the best checkpoint of a network, None where there is none."""
    return trained_weights.step_of(directory, config_file.experiment_of(directory), part, which)
