"""The config.json of a run directory: the experiment that trained it, or the published model that it was converted from."""

import json
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from guided_jax import parallel
from guided_jax.app import settings
from guided_jax.app.facts import Facts, check_classes, of_json
from guided_jax.pretrained.published import description
from guided_jax.storage import compare
from guided_jax.storage.files import replacing, writable_directory

NAME = "config.json"
DTYPES = ("float32", "bfloat16")


class Published(NamedTuple):
    """A published model: its description, the type that it computes in, and the options that its authors sampled with."""

    description: description.Description
    dtype: str = "float32"
    preset: tuple[str, ...] = ()


class Config(NamedTuple):
    """What config.json holds: the facts of the data, and an experiment or a published model."""

    facts: Facts
    experiment: settings.Experiment | None = None
    published: Published | None = None


def read(path: Path) -> Config:
    """Return what config.json holds; ValueError for a damaged one."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise TypeError("it is not an object")
        if "published" in found:
            return Config(published=_published(found["published"]), facts=of_json(found["facts"]))
        return Config(experiment=settings.from_dict(found["experiment"]), facts=of_json(found["facts"]))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is damaged ({reason}); restore it, or make the run again with another --out"
        ) from None


def write(path: Path, config: Config) -> None:
    """Write config.json."""
    body: dict[str, Any] = {"facts": config.facts._asdict()}
    if config.published is not None:
        body = {
            "published": {**config.published._asdict(), "description": config.published.description.to_json()}
        } | body
    else:
        body = {"experiment": settings.to_dict(config.experiment)} | body
    with replacing(path) as file:
        file.write(json.dumps(body, indent=2).encode())


def path_of(directory: Path) -> Path:
    """Return the config.json of a run; ValueError for a folder that is none."""
    path = directory / NAME
    if not path.is_file():
        raise ValueError(
            f"{directory} is not a run: it has no {NAME}; train one with 'guided-jax train digits', or make one of "
            "published weights with 'guided-jax convert'"
        )
    return path


def experiment_of(directory: Path) -> settings.Experiment:
    """Return the experiment of a run; ValueError for a published model, which has none, and for a folder that is no run."""
    return _experiment(read(path_of(directory)), directory)


def _experiment(config: Config, directory: Path) -> settings.Experiment:
    if config.experiment is None:
        raise ValueError(f"{directory} is a published model, which has no experiment; give a run that was trained here")
    return config.experiment


def _check_fit(experiment: settings.Experiment, facts: Facts) -> None:
    """Raise ValueError when the data is not what the adopted diffusion model was trained on."""
    if experiment.diffusion.from_run is not None:
        other = read(experiment.diffusion.from_run / NAME).facts
        check_classes(facts, "a classifier", "leave out --diffusion.from")
        mine, its = ((each.image_shape, each.num_classes) for each in (facts, other))
        if mine != its:
            raise ValueError(f"the data has shape and classes {mine}, {experiment.diffusion.from_run} has {its}")


def create(directory: Path, experiment: settings.Experiment, facts: Facts) -> None:
    """Write config.json, or check it if it is there: ValueError names the fields in which another run differs.

    Of several processes the first writes it, which holds the folder's lock.
    """
    _check_fit(experiment, facts)
    path = writable_directory(directory) / NAME
    if path.exists():
        config = read(path)
        saved, began = _experiment(config, directory), config.facts
        # Settings that are newer than the run are there at their defaults.
        differing = compare.differences(settings.to_dict(saved), settings.to_dict(experiment), settings.MAY_CHANGE)
        if saved.latent != experiment.latent:
            steps = [each.autoencoder.num_steps for each in (saved, experiment)]
            differing.append(f"autoencoder.num_steps: {steps[0]} -> {steps[1]}")
        if differing:
            raise ValueError(f"{directory} holds another run ({'; '.join(differing)}); give another --out")
        _check_data(directory, began, facts)
    if parallel.primary():
        write(path, Config(facts, experiment))


def _check_data(directory: Path, began: Facts, facts: Facts) -> None:
    """Raise ValueError when examples came or went since the run began: the position in the data would be another."""
    saved, found = began._asdict(), facts._asdict()
    unknown = [name for name, value in saved.items() if value is None]
    if compare.differences(saved, found, unknown):
        named = compare.differences(saved, found, [*unknown, "class_frequencies", "class_names"])
        what = "; ".join(named) or "as many examples, of other classes"
        raise ValueError(f"the data is not what {directory} began with ({what}); restore it, or give another --out")


def _published(saved: Any) -> Published:
    if not isinstance(saved, dict):
        raise TypeError(f"published is {reprlib.repr(saved)}")
    found = Published(description.of_json(saved["description"]), saved["dtype"], tuple(saved["preset"]))
    if found.dtype not in DTYPES:
        raise TypeError(f"dtype is {reprlib.repr(found.dtype)}")
    if not all(isinstance(word, str) for word in found.preset):
        raise TypeError(f"preset is {reprlib.repr(saved['preset'])}")
    return found
