"""Tiny files of random weights under the names of published ones, for the commands of the documents."""

import json
import shutil
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from guided_jax.models.transformer import position_table
from guided_jax.pretrained import dit, edm2, stable_diffusion
from guided_jax.pretrained.stable_diffusion import control as files
from guided_jax.storage import images
from tests import latent_golden as golden
from tests import pickle_writer
from tests.golden.control_reference import weights

TRANSFORMER = {
    "input_size": 8,
    "hidden_size": 64,
    "depth": 8,
    "num_heads": 1,
}  # of a width that a published one may have
EDM2 = {"img_resolution": 8, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
EDM2 |= {"channels_per_head": 8, "logvar_channels": 8}
CONTROL = {  # of the encoder of that tiny model
    "_class_name": "ControlNetModel",
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "conditioning_embedding_out_channels": [4, 6, 8],
}


FILES = {
    "v1-5-pruned.safetensors": "checkpoints/sd1_ldm.safetensors",
    "style.safetensors": "lora/kohya.safetensors",
    "light.safetensors": "lora/pytorch_lora_weights.safetensors",
}


def write(folder: Path, name: str) -> str:
    """Make what a published file or folder of this name is, in a folder; return the name that it has there.

    PyTorch, which reads .pt files, is not installed for the tests: they become .safetensors.
    """
    path = folder / name
    if path.suffix == ".pkl":
        path.write_bytes(pickle(channels=3 if "img64" in name else 4, classes=0 if "uncond" in name else 1000))
    elif name in FILES:
        shutil.copy(golden.FOLDER / FILES[name], path)
    elif "control" in name:
        write_control(path)
    elif path.suffix in (".pt", ".safetensors"):
        path = path.with_suffix(".safetensors")
        save_file(transformer(), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(TRANSFORMER))
    elif path.suffix == ".jsonl":
        path.write_text('{"prompt": "a cat", "negative": "blurry", "scale": 5, "seed": 3}\n{"prompt": "a dog"}\n')
    elif path.suffix == ".txt":
        path.write_text("a cat\na dog\n")
    elif path.suffix == ".png":
        shown = np.zeros((32, 32, 3), np.uint8)
        shown[8:24, 8:24] = 255  # a picture, and a mask of its middle
        images.save_png(path, shown)
    else:
        shutil.copytree(source(name), path, dirs_exist_ok=True)
    return path.name


def source(name):
    """Return the golden folder that stands for a published one."""
    kinds = {"vae": "dit/vae", "sd-inpainting": "inpaint", "stable-diffusion": "sd1"}
    return golden.FOLDER / "checkpoints" / next((found for kind, found in kinds.items() if kind in name), "dit")


def transformer():
    """Return the state_dict of a DiT in the layout of the original."""
    shapes = traverse_util.flatten_dict(dit.shapes(dit.make_network(TRANSFORMER))["params"])
    found = {dit.original_key(list(path)): draw(path, leaf.shape, 0.1) for path, leaf in shapes.items()}
    size, table = TRANSFORMER["hidden_size"], np.asarray(position_table(4, 4, 4, TRANSFORMER["hidden_size"]))
    patches = found["x_embedder.proj.weight"].reshape(size, 4, 2, 2)
    return found | {"x_embedder.proj.weight": patches, "pos_embed": table.reshape(1, 16, size)}


def pickle(channels, classes):
    """Return the bytes of a pickle like EDM2's, of 8 x 8 pixels or latents."""
    config = {**EDM2, "img_channels": channels, "label_dim": classes}
    state = {}
    for path, leaf in traverse_util.flatten_dict(edm2.shapes(edm2.make_network(config))).items():
        key, *gain = edm2.torch_keys(list(path[1:]))
        state[key] = draw(path, leaf.shape, 1.0).astype(np.float16)
        state |= {name: np.float16(1) for name in gain}
    return pickle_writer.snapshot(pickle_writer.network(state, config), encoder=pickle_writer.encoder())


def draw(path, shape, std):
    """Return random weights of a layer in the layout of torch."""
    order = {2: (1, 0), 4: (3, 2, 0, 1)}[len(shape)] if path[-1] == "kernel" else range(len(shape))
    return np.random.default_rng(0).normal(0, std, [shape[i] for i in order]).astype(np.float32)


def write_control(folder, config=CONTROL):
    """Write a ControlNet of random weights in the layout of diffusers."""
    module = stable_diffusion.make_control(config)
    flat = traverse_util.flatten_dict(files.control_shapes(module)["params"])
    turned = {path: leaf.shape[::-1] if path[-1] == "kernel" else leaf.shape for path, leaf in flat.items()}
    shapes = {files.control_key(list(path), 1, 2 * len(module.widths)): shape for path, shape in turned.items()}
    folder.mkdir()
    save_file(weights(shapes, 0), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
