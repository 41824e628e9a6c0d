"""A Stable Diffusion in one file, by the names of CompVis' latent diffusion: U-Net, autoencoder and text towers.

    model.diffusion_model.input_blocks...   first_stage_model.encoder...
    cond_stage_model.transformer.text_model...                       of 1, in transformers' names
    cond_stage_model.model.transformer.resblocks...                  of 2, in OpenCLIP's
    conditioner.embedders.0.transformer..., embedders.1.model...     of XL, one of each

Such a file has neither tokenizers nor configurations: both are those of a folder in the layout of diffusers, which needs no
weights. Tables of the schedule and averages (model_ema.) are ignored.

Sources: [LDM] Rombach et al. 2112.10752, [SDXL] Podell et al. 2307.01952.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax.pretrained import readers
from guided_jax.pretrained.clip.keys import OPEN
from guided_jax.pretrained.published import stable_diffusion_folder as folders
from guided_jax.pretrained.published.description import Description
from guided_jax.pretrained.published.files import read_json
from guided_jax.pretrained.published.stable_diffusion_configs import ONE, XL
from guided_jax.pretrained.stable_diffusion.names import PREFIX

FIRST = f"{PREFIX}input_blocks.0.0.weight"  # which every such file has
# Version -> the prefix of each of its text towers.
TOWERS = {
    "1": ("cond_stage_model.transformer.",),
    "2": ("cond_stage_model.model.",),
    "XL": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}


def is_one(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Return whether a file of weights is a Stable Diffusion by the names of CompVis."""
    return FIRST in state_dict


def read(path: Path, state_dict: Mapping[str, np.ndarray], config: Any) -> tuple[Description, dict[str, Any]]:
    """Return (description, weights) of a file.

    path: of the file, for messages. config: the folder in diffusers' layout that has its tokenizers and configurations, or,
    for 1 and XL as published, its tokenizers alone. ValueError for a file or a folder that is not whole.
    """
    version = _version(path, state_dict)
    if isinstance(config, Mapping) or config is None or not Path(config).is_dir():
        raise ValueError(
            f"{path} is a Stable Diffusion {version}, whose file has no tokenizer; give as its config the folder of the "
            "model in diffusers' layout, which needs no weights"
        )
    folder = Path(config)
    if (folder / "model_index.json").is_file():
        description = folders.read_description(folder, read_json(folder / "model_index.json"))
    else:
        description = folders.describe(_published(path, state_dict, version, folder), folder)
    assert description.text is not None
    towers, prefixes = description.text.towers, TOWERS[version]
    if len(towers) != len(prefixes):
        raise ValueError(f"{path} is a Stable Diffusion {version}, and {folder} has {len(towers)} text encoders")
    weights = {"network": state_dict, "autoencoder": state_dict}
    pairs = enumerate(zip(prefixes, towers, strict=True))
    return description, weights | {f"text_{i}": _tower(state_dict, *pair, version) for i, pair in pairs}


def _version(path: Path, state_dict: Mapping[str, np.ndarray]) -> str:
    """Return the version of a file, by the names of its text towers; ValueError for a file without them."""
    for version, prefixes in TOWERS.items():
        if all(any(key.startswith(prefix) for key in state_dict) for prefix in prefixes):
            return version
    wanted = ", ".join(prefixes[-1] for prefixes in TOWERS.values())
    raise ValueError(
        f"{path} has a U-Net and no text encoder of Stable Diffusion 1, 2 or XL: nothing begins with {wanted}"
    )


def _published(
    path: Path, state_dict: Mapping[str, np.ndarray], version: str, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return the configurations as published, for a folder that has the tokenizers alone; ValueError where none are known.

    Stable Diffusion 2 is published with a network that predicts eps and with one that predicts v, of the same sizes.
    """
    known = {"1": ONE, "XL": XL}.get(version)
    if known is None:
        raise ValueError(
            f"{folder} has no model_index.json, and {path} is a Stable Diffusion 2, whose weights do not tell whether they "
            "predict eps or v; give the folder of the model in diffusers' layout"
        )
    channels = np.shape(state_dict[FIRST])[1]  # 9 of a network for inpainting
    return {**known, "unet": {**known["unet"], "in_channels": channels}}


def _tower(
    state_dict: Mapping[str, np.ndarray], prefix: str, config: Mapping[str, Any], version: str
) -> Mapping[str, np.ndarray]:
    """Return the weights of a text tower by their own names.

    Of Stable Diffusion 2 without the last layer and the projection, which it never reads: its configuration counts the
    layers without that one.
    """
    surplus = f"{OPEN['layers']}.{config.get('num_hidden_layers')}."
    names = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
    if version == "2":
        names = [name for name in names if not name.startswith((surplus, "text_projection"))]
    return readers.Tensors(names, lambda name: state_dict[prefix + name])
