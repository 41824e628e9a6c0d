"""A run directory of a published model: Stable Diffusion, DiT, SiT, EDM2."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from guided_jax.app import config_file, presets, published_model
from guided_jax.app.train import folder
from guided_jax.pretrained import published
from guided_jax.pretrained.published import Description
from guided_jax.storage import checkpoint, manifest


def read_config(path: Path | None) -> dict[str, Any] | Path | None:
    """Return the constructor's arguments that a JSON file holds, a folder as it is, None for none; ValueError otherwise."""
    if path is None or path.is_dir():
        return path
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON object of settings ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object of settings")
    return found


def write(out: Path, description: Description, weights: Any, dtype: str, tokenizers: Sequence[Path] = ()) -> None:
    """Write the run directory; ValueError names every weight missing, surplus or misshapen, before any is written.

    tokenizers: the folder of each text tower's, which is copied. What an interrupted conversion left is replaced: it
    writes config.json last.
    """
    check_free(out, description)
    params = published.import_weights(description, weights, jnp.dtype(dtype))
    saved, facts = out / "diffusion" / "checkpoints", published_model.facts_of(description)
    with folder.exclusive(out):
        check_free(out, description)
        for step in checkpoint.steps(saved):
            shutil.rmtree(saved / str(step))
        with checkpoint.opened(saved, keep=1) as opened:
            checkpoint.save(opened, 1, {"ema": params}, config=description.to_json(), frugal=True)
        for name, source in zip(published_model.TOKENIZERS, tokenizers, strict=False):
            shutil.copytree(source, out / name, dirs_exist_ok=True)
        found = config_file.Published(description, dtype, presets.of(description).options)
        config_file.write(out / "config.json", config_file.Config(facts, published=found))


def check_free(out: Path, description: Description) -> None:
    """Raise ValueError for a folder with a run, or with checkpoints that are not of this model."""
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a run already; give another --out, or delete it")
    saved = out / "diffusion" / "checkpoints"
    body = json.loads(json.dumps(description.to_json()))
    for step in checkpoint.steps(saved):
        if manifest.read_notes(saved / str(step)).get("config") != body:
            raise ValueError(f"{out / 'diffusion'} holds checkpoints of another model; give another --out")
