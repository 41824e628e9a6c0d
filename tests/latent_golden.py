"""The recorded numbers of the references for latent models (tests/golden/latent): read, and compared with ours."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

FOLDER = Path(__file__).parent / "golden" / "latent"
CHECKPOINT = FOLDER / "checkpoints" / "dit"  # a whole tiny model in diffusers layout


def read(name):
    """Return (meta, arrays, {group: state_dict}) of a golden file; the groups are "sd", "sd_original", "sd_old"."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        found = dict(file)
    meta, arrays, groups = json.loads(str(found.pop("meta"))), {}, {}
    for key, array in found.items():
        group, slash, rest = key.partition("/")
        if slash and group.startswith("sd"):
            groups.setdefault(group, {})[rest] = array
        else:
            arrays[key] = array
    return meta, arrays, groups


def published(name):
    """Return what is recorded of published checkpoints: the config, count and keys of each component."""
    return json.loads((FOLDER / "published" / f"{name}.json").read_text())["components"]


def nhwc(array):
    """(..., C, H, W) -> (..., H, W, C)."""
    return jnp.asarray(np.moveaxis(array, -3, -1))


def error(ours, reference):
    """Return the largest difference in units of the reference's rms; ours is NHWC where the reference is NCHW."""
    ours = np.asarray(ours)
    ours = np.moveaxis(ours, -1, -3) if ours.ndim >= 4 else ours
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.sqrt(np.mean(np.square(reference)))
