"""The low-rank updates of a LoRA file, by the names of diffusers, of peft, of kohya's scripts, and of before.

    W' = W + multiplier (alpha / rank) up down        alpha = rank where the file has none

    diffusers  unet.mid_block.attentions.0.proj_in.lora_A.weight (down), lora_B (up), perhaps alpha; text_encoder..., _2...
               unet. ... lora.down.weight, lora.up.weight, and lora_linear_layer.down.weight, of text encoders
    before     unet. ... attn1.processor.to_q_lora.down.weight, up
    kohya      lora_unet_mid_block_attentions_0_proj_in.lora_down.weight, lora_up, alpha; lora_te_text_model_..., lora_te1_,
               lora_te2_; of XL lora_unet_input_blocks_4_1_proj_in, by CompVis' names

A convolution has down [rank, in, kh, kw] and up [out, rank, 1, 1]. Source: [LoRA] Hu et al. 2106.09685,
section 4.1.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_jax.pretrained import readers

# The beginning of a key -> the component; the first that fits.
COMPONENTS = {
    "unet.": "unet",
    "lora_unet_": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "base_model.model.": "unet",
    "": "unet",
}
PART = re.compile(
    r"(?P<module>.+?)\.(?:(?:lora_linear_layer\.|lora\.|lora_)(?P<part>A|B|down|up)(?:\.default)?\.weight|(?P<alpha>alpha))"
)
PARTS = {"A": "down", "B": "up"}

SETTINGS = "lora_adapter_metadata"  # in the header of files of diffusers: the settings of peft, "unet.lora_alpha": 8


class Update(NamedTuple):
    """down: (rank, in, ...); up: (out, rank, ...); alpha: None for the rank."""

    down: np.ndarray
    up: np.ndarray
    alpha: float | None = None

    def matrix(self, multiplier: float = 1.0) -> np.ndarray:
        """Return multiplier (alpha / rank) up down in torch's layout, (out, in, ...), float32."""
        rank = self.down.shape[0]
        scale = multiplier * (1.0 if self.alpha is None else self.alpha / rank)
        product = np.float32(self.up).reshape(-1, rank) @ np.float32(self.down).reshape(rank, -1)
        return np.float32(scale) * product.reshape(self.up.shape[0], *self.down.shape[1:])


def read_file(path: str | Path) -> dict[str, np.ndarray]:
    """Return key -> array of a LoRA file, with the alphas that diffusers has written in its header beside the matrices.

    ValueError for a header that is damaged; the other errors are those of `readers.read_state_dict`.
    """
    state_dict = dict(readers.read_state_dict(path))
    try:
        settings = json.loads(readers.read_metadata(path).get(SETTINGS, "{}"))
        return {**dict(_alphas(state_dict, settings)), **state_dict}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged {SETTINGS} in its header ({error}); download it again") from None


def _alphas(state_dict: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, alpha) of every module for which the settings of peft have one.

    A rank-stabilised LoRA divides by the root of the rank, which is alpha times that root here.
    """
    for key, down in state_dict.items():
        component, _, module = key.removesuffix(".lora_A.weight").partition(".")
        if not key.endswith(".lora_A.weight") or f"{component}.lora_alpha" not in settings:
            continue
        own = settings.get(f"{component}.alpha_pattern") or {}
        named = [value for name, value in own.items() if f".{module}".endswith(f".{name}")]
        alpha = float(named[0] if named else settings[f"{component}.lora_alpha"])
        root = math.sqrt(len(down)) if settings.get(f"{component}.use_rslora") else 1.0
        yield f"{component}.{module}.alpha", np.asarray(alpha * root, np.float32)


def read_updates(state_dict: Mapping[str, np.ndarray]) -> dict[str, Update]:
    """Return {"unet/mid_block_attentions_0_proj_in": update, ...}, modules with "_" for "." as kohya writes them.

    state_dict: key of the file -> array. ValueError naming the first keys that are of no LoRA, that lack their other half,
    or whose ranks differ.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    unknown = []
    for key in state_dict:
        if match := PART.fullmatch(_modernize(key)):
            part = "alpha" if match["alpha"] else PARTS.get(match["part"], match["part"])
            found.setdefault(_module(match["module"]), {})[part] = np.asarray(state_dict[key])
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(f"the file is not a LoRA of up and down matrices alone: it has {first(unknown)}")
    if lacking := [name for name, parts in found.items() if not {"down", "up"} <= set(parts)]:
        raise ValueError(f"the LoRA has only one of the two matrices of {first(lacking)}")
    if wrong := [name for name, parts in found.items() if not _fit(parts["down"], parts["up"])]:
        shapes = f"{found[wrong[0]]['down'].shape} and {found[wrong[0]]['up'].shape}"
        raise ValueError(f"the LoRA has matrices down and up that do not fit each other, {shapes}, of {first(wrong)}")
    if not found:
        raise ValueError("the file of the LoRA is empty")
    return {
        name: Update(parts["down"], parts["up"], float(parts["alpha"].ravel()[0]) if "alpha" in parts else None)
        for name, parts in found.items()
    }


def first(names: list[str], count: int = 3) -> str:
    """Return the first few names, as messages have them, and how many more there are.

    >>> first(["unet/a", "b", "c", "d", "e"])
    'unet: a, b, c and 2 more'
    """
    rest = len(names) - count
    return ", ".join(names[:count]).replace("/", ": ") + (f" and {rest} more" if rest > 0 else "")


def _modernize(key: str) -> str:
    """ "mid.attn1.processor.to_out_lora.up.weight" -> "mid.attn1.to_out.0.lora.up.weight"."""
    key = re.sub(r"\.processor\.(to_\w+?)_lora\.", r".\1.lora.", key)
    return re.sub(r"\.to_out\.lora\.", ".to_out.0.lora.", key)


def _module(name: str) -> str:
    """ "lora_te1_text_model_layers_0" and "text_encoder.text_model.layers.0" -> "text_encoder/text_model_layers_0"."""
    prefix = next(prefix for prefix in COMPONENTS if name.startswith(prefix))
    return f"{COMPONENTS[prefix]}/{name.removeprefix(prefix).replace('.', '_')}"


def _fit(down: np.ndarray, up: np.ndarray) -> bool:
    """Return whether there is a product of the two, of linear layers or of convolutions, the second of which is 1x1."""
    return down.ndim in (2, 4) and up.ndim in (2, 4) and up.shape[1:] == (down.shape[0], *(1,) * (up.ndim - 2))
