"""A LoRA merged into the parameters of a Stable Diffusion: W + multiplier (alpha / rank) up down.

The layer that a name means is found by the key maps that weights are loaded by, so that both are one.

Source: [LoRA] Hu et al. 2106.09685.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from guided_jax.pretrained import clip
from guided_jax.pretrained.clip.keys import key_function
from guided_jax.pretrained.published.description import Description
from guided_jax.pretrained.published.stable_diffusion_folder import TOWERS
from guided_jax.pretrained.published.text_to_image import make_towers
from guided_jax.pretrained.stable_diffusion import make_unet, shapes
from guided_jax.pretrained.stable_diffusion.lora import Update, first, read_updates
from guided_jax.pretrained.stable_diffusion.names import compvis_key, diffusers_key
from guided_jax.pretrained.state_dict import from_torch

Path = tuple[Any, ...]  # in the tree of the params


class Layer(NamedTuple):
    """A kernel in the params, or one of several that it is joined of along its outputs, as q, k and v are."""

    path: Path
    part: int = 0
    parts: int = 1


def merge_lora(
    description: Description, params: PyTree, state_dict: Mapping[str, np.ndarray], multiplier: float = 1.0
) -> PyTree:
    """Return the params with W + multiplier (alpha / rank) up down in the place of each W that the LoRA changes.

    description: of a Stable Diffusion, as `read` returns it. params: as `import_weights` returns them. state_dict: key ->
    array of the LoRA's file, as `stable_diffusion.lora.read_file` has it. multiplier: 0 changes nothing. The sum is made in
    float32. To merge several, merge one into what the other one made. ValueError naming the first of what does not fit.
    """
    layers, updates = _layers(description), read_updates(state_dict)
    if unknown := [name for name in updates if name not in layers]:
        raise ValueError(f"the LoRA is of another model: this one has no {first(unknown)}")
    flat = traverse_util.flatten_dict({**params, "text": dict(enumerate(params["text"]))})
    for name, update in updates.items():
        layer = layers[name]
        flat[layer.path] = _add(flat[layer.path], layer, name, update, multiplier)
    merged = traverse_util.unflatten_dict(flat)
    return {**params, "network": merged["network"], "text": [merged["text"][i] for i in range(len(params["text"]))]}


def _add(kernel: Any, layer: Layer, name: str, update: Update, multiplier: float) -> Any:
    """Return the kernel with the update added; ValueError for one of another shape."""
    change = from_torch(update.matrix(multiplier), kernel.ndim)
    width = kernel.shape[-1] // layer.parts
    if change.shape != (*kernel.shape[:-1], width):
        raise ValueError(
            f"the LoRA is of another model: its matrices of {first([name])} make {change.shape}, and this one has "
            f"{(*kernel.shape[:-1], width)}"
        )
    pad = [(0, 0)] * (kernel.ndim - 1) + [(layer.part * width, (layer.parts - 1 - layer.part) * width)]
    return (kernel.astype(jnp.float32) + np.pad(change, pad)).astype(kernel.dtype)


def _layers(description: Description) -> dict[str, Layer]:
    """Return name of a layer, as `read_updates` has it -> where it is in the params; ValueError for another model."""
    if description.text is None:
        raise ValueError(f"a LoRA is for a Stable Diffusion, and this is a {description.family}")
    found = dict(_of_unet(description.network))
    for i, tower in enumerate(make_towers(description.text)):
        paths = _kernels(clip.shapes(tower))
        for bare in (False, True):  # with the names of transformers, and those of its version 5, without text_model.
            key_of = key_function(["encoder." if bare else "text_model."], "", "text")
            for path in paths:
                keys = key_of(list(path))
                keys = (keys,) if isinstance(keys, str) else keys
                for part, key in enumerate(keys):
                    layer = Layer(("text", i, "params", *path), part, len(keys))
                    found[f"{TOWERS[i]}/{_underscored(key)}"] = layer
    return found


def _of_unet(config: Mapping[str, Any]) -> Iterator[tuple[str, Layer]]:
    """Yield (name, layer) of each kernel of a U-Net, by the names of diffusers and of CompVis, as XL's files have them."""
    module = make_unet(config)
    for path in _kernels(shapes(module)):
        for key in (compvis_key(list(path)), diffusers_key(list(path), module.layers_per_block)):
            yield f"unet/{_underscored(key)}", Layer(("network", "params", *path))


def _kernels(variables: PyTree) -> list[Path]:
    return [path for path in traverse_util.flatten_dict(variables["params"]) if path[-1] == "kernel"]


def _underscored(key: str) -> str:
    """ "mid_block.attentions.0.proj_in.weight" -> "mid_block_attentions_0_proj_in"."""
    return key.removesuffix(".weight").replace(".", "_")
