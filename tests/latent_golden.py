"""The recorded numbers of the references for latent models (tests/golden/latent): read, and compared with ours."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.pretrained.state_dict import from_torch

FOLDER = Path(__file__).parent / "golden" / "latent"
CHECKPOINT = FOLDER / "checkpoints" / "dit"  # a whole tiny model in diffusers layout


def cases(names, fast):
    """Return the cases (name, gradients): the outputs of each, and its gradients too, in the fast suite those of `fast`.

    A gradient doubles what has to be compiled. Each is tested, most of them in the slow suite.
    """
    rest = [name for name in names if name not in fast]
    return [
        *((name, name in fast) for name in names),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in rest),
    ]


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


def check_half(params, output, reference):
    """Check that all weights are bfloat16, and that a float32 output is the reference up to their rounding."""
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert output.dtype == jnp.float32
    assert 1e-4 < error(output, reference) < 0.1


def key_shapes(shapes, recorded, torch_key):
    """Return {key in the file: shape as imported} of our parameters, and of the keys that are recorded of a checkpoint.

    shapes: of the parameters. recorded: a component of `published`. torch_key: the names along a path -> key in the file.
    """
    leaves = jax.tree.leaves_with_path(shapes["params"])
    ours = {torch_key([each.key for each in path]): leaf.shape for path, leaf in leaves}
    zeros = {key: np.broadcast_to(0, shape) for key, shape in recorded["keys"]}  # which take no memory
    return ours, {key: from_torch(array, len(ours.get(key, ()))).shape for key, array in zeros.items()}


def nhwc(array):
    """(..., C, H, W) -> (..., H, W, C)."""
    return jnp.asarray(np.moveaxis(array, -3, -1))


def error(ours, reference):
    """Return the largest difference in units of the reference's rms; ours is NHWC where the reference is NCHW."""
    ours = np.asarray(ours)
    ours = np.moveaxis(ours, -1, -3) if ours.ndim >= 4 else ours
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.sqrt(np.mean(np.square(reference)))
