"""What the folders of published models share: JSON files, and the latents that an autoencoder's config describes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax.pretrained import autoencoder
from guided_jax.pretrained.published.description import Latents


def read_json(path: Path, what: str | None = None) -> dict[str, Any]:
    """Return the object that a JSON file holds; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {what or path.name}; is the download complete?")
    try:
        found = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def latents_of(config: dict[str, Any]) -> Latents:
    """Return the latents of an autoencoder's config: its scaling_factor and shift_factor."""
    shift, scale = (tuple(np.atleast_1d(column).tolist()) for column in autoencoder.latents(config))
    return Latents(config, shift, scale)
