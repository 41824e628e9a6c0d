"""Judges on disk: a folder with judge.json, which describes the network, and checkpoints of its weights."""

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


class TrainedJudge(NamedTuple):
    """A trained judge. picture_shape: (H, W, C) of what it was trained on. name: a digest of its weights."""

    network: Judge
    params: Any
    picture_shape: tuple[int, ...]
    name: str


def describe(directory: Path, network: Judge, picture_shape: tuple[int, ...], trained: int | None = None) -> None:
    """Write judge.json; ValueError when the folder holds another judge. trained: the number of steps, once all are done."""
    described = {name: getattr(network, name) for name in ("num_classes", "channels", "num_groups")}
    described = json.loads(json.dumps({**described, "picture_shape": picture_shape}))
    found = _read(directory)
    if found and {name: found.get(name) for name in described} != described:
        raise ValueError(f"{directory} holds another judge, {found}; give another folder for {described}")
    with replacing(directory / DESCRIPTION) as file:
        file.write(json.dumps({**described, "trained": trained}, indent=2).encode())


def is_trained(directory: Path) -> bool:
    """Return whether the folder holds a judge that was trained to its end."""
    return bool(_read(directory).get("trained"))


def _read(directory: Path) -> dict[str, Any]:
    """Return the content of judge.json, empty where there is none that can be read."""
    try:
        found = json.loads((directory / DESCRIPTION).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def load_judge(directory: Path) -> TrainedJudge:
    """Return the judge of a folder, with its averaged weights. ValueError when none was trained to its end there."""
    if not is_trained(directory):
        raise ValueError(f"{directory} is no trained judge")
    described = _read(directory)
    network = Judge(described["num_classes"], tuple(described["channels"]), described["num_groups"])
    params = checkpoint.load_params(directory / CHECKPOINTS, "ema")
    return TrainedJudge(network, params, tuple(described["picture_shape"]), f"judge {digest(params)}")


def digest(params: Any) -> str:
    """Return eight digits that tell the weights of a network from others; params: a tree of arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        sha.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return sha.hexdigest()[:8]


def judge_features(judge: TrainedJudge) -> FeatureFunction:
    """Return the function picture -> `Features` of the last layer but one, with logits; ValueError for other shapes."""

    def features(picture: UInt8[Array | np.ndarray, "h w c"]) -> Features:
        if picture.shape != judge.picture_shape:
            raise ValueError(f"the judge was trained on pictures of {judge.picture_shape}, these are {picture.shape}")
        pool, logits = judge.network.apply(judge.params, picture.astype(jnp.float32) / 127.5 - 1)
        return Features(pool, logits=logits)

    return features
