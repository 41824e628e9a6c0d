"""DINOv2 with published weights in `models.VisionTransformer`: ViT-S, B and L, with and without registers.

    original       "blocks.3.attn.qkv.weight"                              facebookresearch/dinov2, as .pth
    transformers   "encoder.layer.3.attention.attention.query.weight", ... config.json and model.safetensors
    here           params / blocks_3 / qkv / kernel

Sources: [DINOv2] Oquab et al. 2304.07193; [Registers] Darcet et al. 2309.16588. The two libraries interpolate the table of
positions differently for pictures of another size than the training's; `like` says whose numbers are wanted. Published
metrics are the original's.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.vision_transformer import VisionTransformer
from guided_jax.pretrained.state_dict import Keys, import_params, torch_key, variable_shapes

# The keys of config.json that the network depends on, and their values when they are left out.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "num_channels": 3,
    "num_register_tokens": 0,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
ONE_KIND = ("num_channels", "hidden_act", "qkv_bias", "use_swiglu_ffn")  # nothing else here
HEAD_CHANNELS = 64  # of every published network

# Names in `models.VisionTransformer` -> those of the original, and of transformers.
NAMES = {"patch_embed": "patch_embed.proj", "qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
TRANSFORMERS_NAMES = {
    "patch_embed": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "norm": "layernorm",
    "proj": "attention.output.dense",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "gamma": "lambda1",
}
MASKS = ("mask_token", "embeddings.mask_token")  # in place of patches that training hides


def load(
    config: Mapping[str, Any] | None,
    state_dict: Mapping[str, np.ndarray],
    like: str = "original",
    dtype: Any = None,
) -> tuple[VisionTransformer, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x), x NHWC with any number of batch axes.

    config, like, dtype: as of `make_network`; dtype is that of the parameters too. config may be None, as the original has
    none: it is then read from the shapes of the weights. state_dict: torch key -> array, of either layout. ValueError
    naming every key missing, surplus or misshapen.
    """
    module = make_network(infer_config(state_dict) if config is None else config, like, dtype)
    key_of = transformers_key if _is_transformers(state_dict) else original_key
    dtype = jnp.float32 if dtype is None else dtype
    return module, import_params(shapes(module), state_dict, key_of, dtype, ignored=MASKS.__contains__)


def make_network(config: Mapping[str, Any], like: str = "original", dtype: Any = None) -> VisionTransformer:
    """Return the network of a config.json of transformers; unknown keys are ignored, what is left out has a default.

    like: "original" or "transformers": whose interpolation of the positions. dtype: of the computation; None for float32.
    ValueError for other kinds of network, such as ViT-g's.

    >>> make_network({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}).position_offset
    0.1
    """
    if like not in ("original", "transformers"):
        raise ValueError(f"like is {like!r}; it is original or transformers")
    full = {**DEFAULTS, **config}
    if other := {name: full[name] for name in ONE_KIND if full[name] != DEFAULTS[name]}:
        raise ValueError(f"{other} describes another network than the ViT-S, B and L of DINOv2; load one of these")
    registers = full["num_register_tokens"]
    return VisionTransformer(
        hidden_size=full["hidden_size"],
        depth=full["num_hidden_layers"],
        num_heads=full["num_attention_heads"],
        mlp_ratio=full["mlp_ratio"],
        patch_size=full["patch_size"],
        image_size=full["image_size"],
        num_registers=registers,
        position_offset=0.1 if like == "original" and not registers else 0.0,
        position_antialias=registers > 0,
        norm_epsilon=full["layer_norm_eps"],
        dtype=jnp.float32 if dtype is None else dtype,
    )


def infer_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the config of published weights, from their keys and shapes. ValueError for weights of something else."""
    key_of = transformers_key if _is_transformers(state_dict) else original_key
    wanted = (["pos_embed"], ["patch_embed", "kernel"], ["blocks_0", "fc1", "kernel"])
    keys = [str(key_of(path)) for path in wanted]
    if missing := [key for key in keys if key not in state_dict]:
        raise ValueError(f"the weights are not those of a ViT-S, B or L of DINOv2: they have no {', '.join(missing)}")
    (_, positions, width), (*_, patch), (inner, _) = (np.shape(state_dict[key]) for key in keys)
    block = keys[2].partition(".0.")[0] + "."
    registers = str(key_of(["register_tokens"]))
    return {
        "hidden_size": width,
        "num_hidden_layers": len(
            {key.removeprefix(block).split(".")[0] for key in state_dict if key.startswith(block)}
        ),
        "num_attention_heads": max(1, width // HEAD_CHANNELS),
        "mlp_ratio": inner // width,
        "patch_size": patch,
        "image_size": patch * round((positions - 1) ** 0.5),
        "num_register_tokens": np.shape(state_dict[registers])[1] if registers in state_dict else 0,
    }


def shapes(module: VisionTransformer) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    x = jax.ShapeDtypeStruct((module.image_size, module.image_size, 3), jnp.float32)
    return variable_shapes(module, x)


def original_key(path: list[str]) -> str:
    """["blocks_3", "qkv", "kernel"] -> "blocks.3.attn.qkv.weight"."""
    *modules, leaf = path
    return torch_key([*(NAMES.get(name, name.replace("blocks_", "blocks.")) for name in modules), leaf])


def transformers_key(path: list[str]) -> Keys:
    """["blocks_3", "ls1", "gamma"] -> "encoder.layer.3.layer_scale1.lambda1"; those of query, key and value for "qkv"."""
    names = [TRANSFORMERS_NAMES.get(name, name.replace("blocks_", "encoder.layer.")) for name in path]
    if names[-2:-1] == ["qkv"]:
        return tuple(
            torch_key([names[0], f"attention.attention.{part}", names[-1]]) for part in ("query", "key", "value")
        )
    return torch_key(names)


def _is_transformers(state_dict: Mapping[str, np.ndarray]) -> bool:
    return any(key.startswith(("embeddings.", "encoder.layer.")) for key in state_dict)
