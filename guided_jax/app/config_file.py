"""The config.json of a run directory: the experiment that trained it, or the published model that it was converted from."""

import json
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from guided_jax.app import settings
from guided_jax.app.facts import Facts, of_json
from guided_jax.pretrained.published import description
from guided_jax.storage.files import replacing

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


def _published(saved: Any) -> Published:
    if not isinstance(saved, dict):
        raise TypeError(f"published is {reprlib.repr(saved)}")
    found = Published(description.of_json(saved["description"]), saved["dtype"], tuple(saved["preset"]))
    if found.dtype not in DTYPES:
        raise TypeError(f"dtype is {reprlib.repr(found.dtype)}")
    if not all(isinstance(word, str) for word in found.preset):
        raise TypeError(f"preset is {reprlib.repr(saved['preset'])}")
    return found
