"""A Stable Diffusion in the layout of diffusers: U-Net, autoencoder, text towers, tokenizers and scheduler."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from guided_jax.pretrained import clip, readers, weight_files
from guided_jax.pretrained.published.description import Description, Text
from guided_jax.pretrained.published.files import latents_of, read_json

TOWERS = ("text_encoder", "text_encoder_2")  # the components that they are; their tokenizers are named alike


def read(path: Path, index: Mapping[str, Any], variant: str | None) -> tuple[Description, dict[str, Any]]:
    """Return (description, weights) of a folder; index: its model_index.json. ValueError for one that is not whole."""
    parts = {"network": path / "unet", "autoencoder": path / "vae"}
    parts |= {f"text_{i}": path / name for i, name in enumerate(_towers(path, index))}
    weights = {name: readers.read_state_dict(weight_files.find_weights(at, variant)) for name, at in parts.items()}
    return read_description(path, index), weights


def read_description(path: Path, index: Mapping[str, Any]) -> Description:
    """Return the description of a folder, whose weights need not be there; the arguments are those of `read`."""
    names = ("unet", "vae", *_towers(path, index))
    configs = {name: read_json(path / name / "config.json") for name in names}
    configs["scheduler"] = read_json(path / "scheduler" / "scheduler_config.json")
    return describe(configs, path, bool(index.get("force_zeros_for_empty_prompt", True)))


def describe(configs: Mapping[str, dict[str, Any]], folder: Path, force_zeros: bool = True) -> Description:
    """Return the description of a Stable Diffusion.

    configs: component -> its configuration: unet, vae, scheduler, text_encoder, and of XL text_encoder_2. folder: with the
    tokenizers. force_zeros: whether XL has zeros for no prompt at all. ValueError for a folder without its tokenizers,
    and for XL's refiner.
    """
    towers = [name for name in TOWERS if name in configs]
    is_xl = len(towers) == len(TOWERS)
    added = configs["unet"].get("addition_embed_type")
    if is_xl != (added is not None):
        raise ValueError(
            f"{folder} has {', '.join(towers)}, and a U-Net of addition_embed_type {added}; Stable Diffusion 1, 2 and XL "
            "are supported, and XL's refiner is not"
        )
    text = Text(
        tuple(configs[name] for name in towers),
        tuple(_empty_prompt(folder / name.replace("text_encoder", "tokenizer")) for name in towers),
        is_penultimate=is_xl,
        zero_null=is_xl and force_zeros,
    )
    return Description("sd", configs["unet"], configs["scheduler"], latents_of(configs["vae"]), text=text)


def import_towers(text: Text, weights: Mapping[str, Mapping[str, np.ndarray]], dtype: Any = None) -> list[PyTree]:
    """Return the params of the text towers; ValueError for weights that do not fit."""
    return [clip.load_text(config, weights[f"text_{i}"], dtype)[1] for i, config in enumerate(text.towers)]


def _towers(path: Path, index: Mapping[str, Any]) -> list[str]:
    """Return the text towers that a model_index.json names; ValueError for none."""
    found = [name for name in TOWERS if (index.get(name) or [None])[0] is not None]
    if not found:
        raise ValueError(f"{path} names no text_encoder in its model_index.json, which a Stable Diffusion needs")
    return found


def _empty_prompt(folder: Path) -> tuple[int, ...]:
    return tuple(int(token) for token in clip.tokenizer(folder)(""))
