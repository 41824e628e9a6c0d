"""Stable Diffusion's U-Net with published weights: versions 1, 2 and XL, also those for inpainting.

The configuration is diffusers' config.json; the weights may be in diffusers' layout, or in CompVis', of single files.

Sources: [LDM] Rombach et al. 2112.10752, [SDXL] Podell et al. 2307.01952.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.autoencoder import check_groups
from guided_jax.models.stable_diffusion import UNet2DConditionModel
from guided_jax.pretrained.stable_diffusion.names import read_layout
from guided_jax.pretrained.state_dict import import_params, variable_shapes

# The arguments of the reference's constructor that we read, with its defaults.
DEFAULTS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,  # is the number of heads, in spite of its name
    "transformer_layers_per_block": 1,
    "only_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "projection_class_embeddings_input_dim": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
}
COUNTS = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim")
EACH_LEVEL = ("attention_head_dim", "transformer_layers_per_block", "only_cross_attention")
# What we know of arguments that could describe another network; the first is their default.
ONLY: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DConditionModel",),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "mid_block_only_cross_attention": (None, False),
    "dual_cross_attention": (False,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "class_embed_type": (None, "timestep", "projection"),
    "addition_embed_type": (None, "text_time"),
    "num_attention_heads": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "cross_attention_norm": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
}


def load_unet(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[UNet2DConditionModel, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, t, context, pooled, time_ids, label, mask), x NHWC.

    config: the reference constructor's arguments, or its config.json as a dict. state_dict: torch key -> array, in either
    layout; of a single file the rest is ignored. dtype: of the weights and of the computation, None for float32.
    ValueError naming every key missing, surplus or misshapen, and for a configuration of another network.

    >>> load_unet({"block_out_channels": [32, 64, 64, 64]}, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the weights do not fit the configuration: missing conv_in.bias, ...
    """
    module = make_unet(config, dtype)
    key_of, ignored = read_layout(state_dict, module.layers_per_block)
    return module, import_params(shapes(module), state_dict, key_of, module.dtype, ignored)


def make_unet(config: Mapping[str, Any], dtype: Any = None) -> UNet2DConditionModel:
    """Return the module of the reference constructor's arguments `config`, computing in `dtype`, None for float32.

    A missing argument has the reference's default, an unknown one is ignored. ValueError for values that describe no
    network, or one of another kind.
    """
    for name, allowed in ONLY.items():
        if config.get(name, allowed[0]) not in allowed:
            wanted = " or ".join(str(each) for each in allowed)
            raise ValueError(
                f"{name} of the configuration is {config[name]!r}; only {wanted} is a U-Net that can be loaded."
            )
    full = DEFAULTS | {name: config[name] for name in DEFAULTS if name in config}
    for name in COUNTS:
        if not _is_count(full[name]):
            raise ValueError(f"{name} of the configuration is {full[name]!r}; it has to be a positive whole number.")
    widths = full["block_out_channels"]
    if not (isinstance(widths, list | tuple) and widths and all(map(_is_count, widths))):
        raise ValueError(
            f"block_out_channels of the configuration is {widths!r}; it has to be a list of positive whole numbers."
        )
    check_groups(widths, full["norm_num_groups"])
    heads, layers, only_cross = (_each_level(name, full[name], len(widths)) for name in EACH_LEVEL)
    return UNet2DConditionModel(
        in_channels=full["in_channels"],
        out_channels=full["out_channels"],
        block_out_channels=tuple(widths),
        attention_levels=_attention_levels(full, len(widths)),
        layers_per_block=full["layers_per_block"],
        num_heads=heads,
        transformer_layers=layers,
        only_cross_attention=only_cross,
        num_groups=full["norm_num_groups"],
        norm_epsilon=full["norm_eps"],
        cross_attention_dim=full["cross_attention_dim"],
        dtype=jnp.float32 if dtype is None else dtype,
        **_conditions(full),
    )


def shapes(module: UNet2DConditionModel) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    return variable_shapes(module, t=0.0, **example_inputs(module))


def example_inputs(module: UNet2DConditionModel) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of all inputs of a small example but the time, by name."""
    side, added = 2 ** (len(module.block_out_channels) - 1), module.added_features
    sizes = 0 if added is None else (added - 1) // module.size_features
    arrays = {
        "x": (side, side, module.in_channels),
        "context": (1, module.cross_attention_dim),
        "pooled": None if added is None else (added - sizes * module.size_features,),
        "time_ids": None if added is None else (sizes,),
        "label": {None: None, "projection": (module.class_features,)}.get(module.class_embedding, ()),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32 if name == "label" else jnp.float32)
        for name, shape in arrays.items()
        if shape is not None
    }


def _attention_levels(full: Mapping[str, Any], levels: int) -> tuple[bool, ...]:
    """Return whether each level has attention. ValueError where the way up has other levels with it than the way down."""
    down, up = (full[f"{way}_block_types"] for way in ("down", "up"))
    attends = tuple(kind == "CrossAttnDownBlock2D" for kind in down)
    wanted = ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends]
    mirrored = [kind.replace("Down", "Up") for kind in reversed(wanted)]
    if len(attends) != levels or list(down) != wanted or list(up) != mirrored:
        raise ValueError(
            f"down_block_types and up_block_types of the configuration are {list(down)} and {list(up)}; only {levels} "
            "times CrossAttnDownBlock2D or DownBlock2D, and the same reversed, is a U-Net that can be loaded."
        )
    return attends


def _each_level(name: str, value: Any, levels: int) -> tuple[Any, ...]:
    """Return one value for each level, each of the kind of the argument's default."""
    listed = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    flag = isinstance(DEFAULTS[name], bool)
    if len(listed) != levels or not all(isinstance(each, bool) if flag else _is_count(each) for each in listed):
        wanted = "true or false" if flag else "a positive whole number"
        raise ValueError(f"{name} of the configuration is {value!r}; it has to be {wanted}, or a list of {levels}.")
    return listed


def _conditions(full: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the conditions beside the time and the text."""
    sort, rows, features = (
        full[name] for name in ("class_embed_type", "num_class_embeds", "projection_class_embeddings_input_dim")
    )
    needs: dict[str, Any] = {"projection_class_embeddings_input_dim": features} if sort == "projection" else {}
    found: dict[str, Any] = {"class_embedding": "table" if sort is None and rows is not None else sort}
    if found["class_embedding"] == "table":
        needs["num_class_embeds"] = found["num_classes"] = rows
    if sort == "projection":
        found["class_features"] = features
    if full["addition_embed_type"] is not None:
        found |= {"added_features": features, "size_features": full["addition_time_embed_dim"]}
        needs |= {"projection_class_embeddings_input_dim": features}
        needs |= {"addition_time_embed_dim": full["addition_time_embed_dim"]}
    for name, value in needs.items():
        if not _is_count(value):
            raise ValueError(f"{name} of the configuration is {value!r}; it has to be a positive whole number.")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
