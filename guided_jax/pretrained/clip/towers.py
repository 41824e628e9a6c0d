"""CLIP with published weights, in `models.clip`: text towers of Stable Diffusion, OpenAI's CLIP, OpenCLIP.

    transformers  text_model.encoder.layers.3.self_attn.q_proj.weight, k_proj, v_proj       config: config.json
                  encoder.layers.3.self_attn.q_proj.weight      as transformers 5 saves a text tower alone
    OpenCLIP      transformer.resblocks.3.attn.in_proj_weight   config: open_clip_config.json, or one of transformers
    here          params / layers_3 / attention / qkv / kernel

Source: [CLIP] Radford et al. 2103.00020.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.clip import CLIP, CLIPText, CLIPVision
from guided_jax.pretrained.clip.configs import text_fields, vision_fields
from guided_jax.pretrained.clip.keys import ignored_keys, key_function
from guided_jax.pretrained.state_dict import import_params, join_outputs, variable_shapes


def load_text(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None, prefix: str = ""
) -> tuple[CLIPText, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, ids) -> `TextFeatures`.

    config: config.json of a text tower or of a whole CLIP as a dict, or open_clip_config.json. state_dict: torch key ->
    array, in any of the layouts; the vision tower beside it and old tables of positions' numbers are ignored. dtype: of the
    layers, None for float32; embeddings, norms and the projection are float32.
    prefix: of the tower's keys in a file of many networks, whose other keys are ignored: "cond_stage_model.transformer." in
    single files of Stable Diffusion 1, "cond_stage_model.model." in those of 2, "conditioner.embedders.0.transformer." and
    "conditioner.embedders.1.model." in those of XL.
    ValueError naming every key missing, surplus or misshapen, and for a configuration of another network.

    >>> load_text({"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the weights do not fit the configuration: missing text_model.embeddings.position_embedding.weight, ...
    """
    module = make_text(config, dtype, _has_projection(config, state_dict, prefix, "text"))
    return module, _import(module, state_dict, prefix, "text")


def load_vision(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None, prefix: str = ""
) -> tuple[CLIPVision, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, pixels) -> `VisionFeatures`; `preprocess` makes the pixels.

    The arguments are those of `load_text`.
    """
    module = make_vision(config, dtype, _has_projection(config, state_dict, prefix, "vision"))
    return module, _import(module, state_dict, prefix, "vision")


def load(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None, prefix: str = ""
) -> tuple[CLIP, dict[str, Any]]:
    """Return (module, params) of both towers, used as module.apply(params, pixels, ids) -> logit: see `models.clip.CLIP`.

    config: of a whole CLIP. The other arguments are those of `load_text`.
    """
    module = make_clip(config, dtype)
    return module, _import(module, state_dict, prefix, None)


def make_text(config: Mapping[str, Any], dtype: Any = None, projection: bool = True) -> CLIPText:
    """Return the text tower of a config, with or without its projection, computing in `dtype`, None for float32.

    What is missing in the config has the reference's default, an unknown key is ignored.
    """
    return CLIPText(**text_fields(config, projection), dtype=jnp.float32 if dtype is None else dtype)


def make_vision(config: Mapping[str, Any], dtype: Any = None, projection: bool = True) -> CLIPVision:
    """Return the vision tower of a config, with or without its projection; the arguments are those of `make_text`."""
    return CLIPVision(**vision_fields(config, projection), dtype=jnp.float32 if dtype is None else dtype)


def make_clip(config: Mapping[str, Any], dtype: Any = None) -> CLIP:
    """Return both towers of the config of a whole CLIP, computing in `dtype`, None for float32."""
    return CLIP(make_text(config, dtype), make_vision(config, dtype))


def shapes(module: CLIP | CLIPText | CLIPVision) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    towers = (module.vision, module.text) if isinstance(module, CLIP) else (module,)
    return variable_shapes(module, *(_input(tower) for tower in towers))


def same_weights(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float = 2**-7) -> bool:
    """Return whether max |a - b| <= tolerance max |a| for all weights a, b that two towers have in common.

    one, other: params of two text towers, or of two vision towers; the weights of either have to be all in the other, but
    for projections: towers are saved without theirs, and without their last layer (Stable Diffusion 2). tolerance: above
    the rounding of bfloat16 and float16; a tower that was trained further, but hardly, is the same as well.
    """
    small, large = sorted((_weights(params) for params in (one, other)), key=len)
    if any(path not in large or large[path].shape != leaf.shape for path, leaf in small.items()):
        return False
    pairs = ((np.asarray(leaf, np.float32), np.asarray(large[path], np.float32)) for path, leaf in small.items())
    return all(np.abs(a - b).max() <= tolerance * np.abs(a).max() for a, b in pairs)


def _weights(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return path -> weight, without those of a projection."""
    named = ((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params))
    return {path: leaf for path, leaf in named if "projection" not in path}


def _input(tower: CLIPText | CLIPVision) -> jax.ShapeDtypeStruct:
    if isinstance(tower, CLIPText):
        return jax.ShapeDtypeStruct((tower.max_length,), jnp.int32)
    return jax.ShapeDtypeStruct((tower.image_size, tower.image_size, tower.channels), jnp.float32)


def _import(module: Any, state_dict: Mapping[str, np.ndarray], prefix: str, tower: str | None) -> dict[str, Any]:
    """Return the params of `module`, which is the `tower` of this name, or both for None."""
    key_of = key_function(list(state_dict), prefix, tower)
    dtype = module.text.dtype if isinstance(module, CLIP) else module.dtype
    ignored = ignored_keys(prefix, tower)
    return import_params(shapes(module), state_dict, key_of, dtype, ignored, join=_join(key_of), exact=_is_exact)


def _join(key_of: Callable[[list[str]], Any]) -> Callable[[list[str], list[np.ndarray]], np.ndarray]:
    """Return the `join` of `import_params`: OpenCLIP's projections are matrices [in, out], and are turned."""

    def join(path: list[str], tensors: list[np.ndarray]) -> np.ndarray:
        turned = "projection" in path and tensors[0].ndim == 2 and not str(key_of(path)).endswith(".weight")
        return tensors[0].T if turned else join_outputs(path, tensors)

    return join


def _is_exact(path: list[str]) -> bool:
    """Return whether the tower computes with it in float32 always."""
    return path[-1] in ("scale", "embedding", "position_embedding", "class_embedding", "logit_scale") or any(
        "norm" in name or name == "projection" for name in path[:-1]
    )


def _has_projection(config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], prefix: str, tower: str) -> bool:
    """Return whether there is a projection in the weights, or a configuration of a class that has one."""
    names = {
        "text": ("text_projection.weight", "text_projection"),
        "vision": ("visual_projection.weight", "visual.proj"),
    }
    saved = any(prefix + name in state_dict for name in names[tower])
    return saved or any("WithProjection" in name for name in config.get("architectures") or ())
