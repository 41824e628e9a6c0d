"""A whole CLIP from its folder: both towers, the tokenizer, and what its pictures are normalised by.

transformers  config.json with text_config and vision_config, model.safetensors, preprocessor_config.json
OpenCLIP      open_clip_config.json, open_clip_model.safetensors or open_clip_pytorch_model.bin
both          tokenizer.json, or vocab.json and merges.txt
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from guided_jax.models.clip import CLIP, preprocess
from guided_jax.models.clip.pixels import MEAN, STD
from guided_jax.pretrained import readers
from guided_jax.pretrained.clip.tokenization import Tokenizer, tokenizer
from guided_jax.pretrained.clip.towers import load
from guided_jax.pretrained.weight_files import find_weights, read_json

OPEN_CONFIG, OPEN_WEIGHTS = "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# What `preprocess` does, by the names of transformers and of OpenCLIP: 3 is bicubic.
EXPECTED = {"resample": 3, "do_center_crop": True, "interpolation": "bicubic", "resize_mode": "shortest"}


class Checkpoint(NamedTuple):
    """module, params: as `load` returns them. tokenize: text -> ids. mean, std: of each channel, as `preprocess` takes
    them."""

    module: CLIP
    params: dict[str, Any]
    tokenize: Tokenizer
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def load_folder(folder: str | Path, dtype: Any = None) -> Checkpoint:
    """Return the CLIP of a folder in the layout of transformers or of OpenCLIP; the first where there are both.

    dtype: of the layers, None for float32. ValueError for a folder of something else, for a tokenizer of another vocabulary
    and for pictures that `preprocess` does not prepare; FileNotFoundError where there is no folder or no file of weights.
    """
    folder = Path(folder)
    config, weights, pictures = _read(folder)
    module, params = load(config, weights, dtype)
    tokens, text = tokenizer(folder), module.text
    number = tokens.backend.get_vocab_size()
    if number > text.vocab_size:
        raise ValueError(
            f"the tokenizer of {folder} has {number} tokens and the text tower {text.vocab_size}; take both from one CLIP."
        )
    tokens = tokens._replace(length=min(tokens.length, text.max_length))
    return Checkpoint(module, params, tokens, *_normalization(folder, pictures))


def embed_image(checkpoint: Checkpoint, picture: Float[Array, "h w c"]) -> Float[Array, " d"]:
    """Return the embedding of a picture in [-1, 1], of one or three channels; differentiable.

    checkpoint: in a compiled function with its params as an argument: checkpoint._replace(params=params). The picture is
    resized, its middle square cut out, and normalised by the CLIP's own mean and deviation, as `preprocess` does.
    """
    module, params, _, mean, std = checkpoint
    rgb = jnp.broadcast_to(picture, (*picture.shape[:2], 3))
    pixels = preprocess(rgb, module.vision.image_size, mean, std)
    features: Any = module.apply(params, pixels, method="encode_image")
    return features.projected


def embed_text(checkpoint: Checkpoint, texts: Sequence[str]) -> Float[Array, "n d"]:
    """Return the embeddings of texts."""
    ids = jnp.asarray(checkpoint.tokenize(list(texts)))
    features: Any = checkpoint.module.apply(checkpoint.params, ids, method="encode_text")
    return features.projected


def _read(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, np.ndarray], Mapping[str, Any]]:
    """Return the configuration, the weights and what is said of the pictures."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give that of a CLIP")
    config = read_json(folder / "config.json")
    if {"text_config", "vision_config"} <= config.keys():
        return config, readers.read_state_dict(find_weights(folder)), read_json(folder / "preprocessor_config.json")
    config = read_json(folder / OPEN_CONFIG)
    if not config:
        raise ValueError(
            f"{folder} is no CLIP of both towers: it has neither a config.json with text_config and vision_config nor "
            f"{OPEN_CONFIG}."
        )
    there = [folder / name for name in OPEN_WEIGHTS if (folder / name).is_file()]
    if not there:
        raise FileNotFoundError(f"{folder} has no weights, such as {OPEN_WEIGHTS[0]}")
    return config, readers.read_state_dict(there[0]), config.get("preprocess_cfg", {})


def _normalization(folder: Path, pictures: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) of a configuration, CLIP's own where it says none; ValueError for another way to a square."""
    for name, usual in EXPECTED.items():
        if pictures.get(name, usual) != usual:
            raise ValueError(f"{name} of the pictures of {folder} is {pictures[name]!r}; only {usual!r} is supported.")
    found = (pictures.get(f"image_{name}", pictures.get(name, usual)) for name, usual in (("mean", MEAN), ("std", STD)))
    mean, std = (tuple(float(number) for number in numbers) for numbers in found)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"the pictures of {folder} have mean {mean} and std {std}; three numbers each, std above 0.")
    return mean, std
