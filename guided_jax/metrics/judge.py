"""Judges on disk: a folder with judge.json, what the network is, and checkpoints of its weights."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from guided_jax.metrics.features import FeatureFunction, Features
from guided_jax.models.judge import Judge
from guided_jax.storage import checkpoint
from guided_jax.storage.files import replacing

DESCRIPTION = "judge.json"
CHECKPOINTS = "checkpoints"


class Judging(NamedTuple):
    """A trained judge. `name` tells it from others: a digest of its weights."""

    network: Judge
    params: Any
    picture_shape: tuple[int, ...]
    name: str


def describe(directory: Path, network: Judge, picture_shape: tuple[int, ...], trained: int | None = None) -> None:
    """Writes judge.json; ValueError when the folder holds another judge. trained: the steps, once they are all done."""
    said = {name: getattr(network, name) for name in ("num_classes", "channels", "num_groups")}
    said = json.loads(json.dumps({**said, "picture_shape": picture_shape}))
    found = _read(directory)
    if found and {name: found.get(name) for name in said} != said:
        raise ValueError(f"{directory} holds another judge, {found}; give another folder for {said}")
    with replacing(directory / DESCRIPTION) as file:
        file.write(json.dumps({**said, "trained": trained}, indent=2).encode())


def is_trained(directory: Path) -> bool:
    """Whether the folder holds a judge that was trained to its end."""
    return bool(_read(directory).get("trained"))


def _read(directory: Path) -> dict[str, Any]:
    """What judge.json says, nothing where there is none that can be read."""
    try:
        found = json.loads((directory / DESCRIPTION).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def load_judge(directory: Path) -> Judging:
    """The judge in a folder, with its averaged weights. ValueError when there is none that was trained to its end."""
    if not is_trained(directory):
        raise ValueError(f"{directory} is no trained judge; train one with 'guided-jax judge RUN'")
    said = _read(directory)
    network = Judge(said["num_classes"], tuple(said["channels"]), said["num_groups"])
    params = checkpoint.load_params(directory / CHECKPOINTS, "ema")
    return Judging(network, params, tuple(said["picture_shape"]), f"judge {_digest(params)}")


def _digest(params):
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        sha.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return sha.hexdigest()[:8]


def judge_features(judging: Judging) -> FeatureFunction:
    """picture -> `Features` of its last layer but one, and its logits. ValueError for pictures of another shape."""

    def features(picture: UInt8[Array | np.ndarray, "h w c"]) -> Features:
        if picture.shape != judging.picture_shape:
            raise ValueError(f"the judge was trained on pictures of {judging.picture_shape}, these are {picture.shape}")
        pool, logits = judging.network.apply(judging.params, picture.astype(jnp.float32) / 127.5 - 1)
        return Features(pool, logits=logits)

    return features
