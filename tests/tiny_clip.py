"""Tiny whole CLIPs in folders, as transformers and OpenCLIP save them, of the golden weights."""

import json
import shutil
import string

import numpy as np
from safetensors.numpy import load_file, save_file

from tests import latent_golden as golden
from tests.golden import text_reference

SD1 = golden.FOLDER / "checkpoints" / "sd1"
SIGNS = string.ascii_lowercase + string.digits + "!#$%&*,."  # 44, of which the tiny tokenizer makes 88 tokens


def own(folder):
    """Write the whole CLIP of clip_full_vit.npz, with a tokenizer of single signs; its vocabulary has 90 tokens."""
    meta, _, groups = golden.read("clip_full_vit")
    config = {name: meta[name] for name in ("text_config", "vision_config", "projection_dim")}
    return _write(folder, config, groups["sd"], _write_signs)


def of_sd1(folder):
    """Write a CLIP whose text tower is the one that the tiny Stable Diffusion 1 is conditioned by."""
    meta, _, groups = golden.read("clip_full_vit")
    config = {
        "text_config": json.loads((SD1 / "text_encoder" / "config.json").read_text()),
        "vision_config": meta["vision_config"],
        "projection_dim": meta["projection_dim"],
    }
    weights = {name: array for name, array in groups["sd"].items() if not name.startswith("text_model.")}
    text = load_file(SD1 / "text_encoder" / "model.safetensors")
    weights |= {name: array.astype(np.float32) for name, array in text.items() if "position_ids" not in name}
    return _write(folder, config, weights, lambda to: shutil.copytree(SD1 / "tokenizer", to, dirs_exist_ok=True))


def of_open_clip(folder):
    """Write the CLIP of text_open_clip.npz in OpenCLIP's layout; its vocabulary has 60 tokens, its texts 12."""
    meta, _, _ = golden.read("text_open_clip")
    folder.mkdir(parents=True)
    means = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": meta["config"], "preprocess_cfg": means}))
    _save(text_reference.weights(meta["shapes"]), folder / "open_clip_model.safetensors")
    _write_signs(folder, SIGNS[:29])
    return folder


def _write(folder, config, weights, write_tokenizer):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", **config}))
    _save(weights, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def _save(weights, path):
    save_file({name: np.asarray(array, order="C") for name, array in weights.items()}, path)


def _write_signs(folder, signs=SIGNS):
    """Write a tokenizer without merges: each sign is a token, and another one at the end of a word."""
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
