"""Stable Diffusion 3's transformer with published weights, in diffusers' layout.

    diffusers  transformer_blocks.3.attn.add_q_proj.weight        transformer_blocks.3.ff_context.net.0.proj.weight
    here       blocks_3 / add_q_proj / kernel                     blocks_3 / ff_context_net_0_proj / kernel

Source: [SD3] Esser et al. 2403.03206.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.stable_diffusion.mmdit import MMDiT
from guided_jax.pretrained.state_dict import import_params, torch_key, variable_shapes

# The arguments of the reference's constructor that we read, with its defaults.
COUNTS = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 96,
}
NAMES = {
    "x_embedder": "pos_embed.proj",
    "time_0": "time_text_embed.timestep_embedder.linear_1",
    "time_2": "time_text_embed.timestep_embedder.linear_2",
    "pooled_0": "time_text_embed.text_embedder.linear_1",
    "pooled_2": "time_text_embed.text_embedder.linear_2",
    "norm_out": "norm_out.linear",
    "norm1": "norm1.linear",
    "norm1_context": "norm1_context.linear",
    "to_out_0": "attn.to_out.0",
    **{name: f"attn.{name}" for part in "qkv" for name in (f"to_{part}", f"add_{part}_proj")},
    **{name: f"attn.{name}" for part in "qk" for name in (f"norm_{part}", f"norm_added_{part}")},
    "to_add_out": "attn.to_add_out",
    **{
        f"{name}_net_{i}": f"{name}.net.{i.replace('_', '.')}" for name in ("ff", "ff_context") for i in ("0_proj", "2")
    },
}


def load_transformer(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[MMDiT, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, t, context, pooled), x NHWC with any number of batch axes.

    config: the reference constructor's arguments, or its config.json as a dict. state_dict: torch key -> array. dtype: of
    the weights and of the computation, None for float32. ValueError naming every key missing, surplus or misshapen, and for
    a configuration of another network.
    """
    module = make_transformer(config, dtype)
    return module, import_params(transformer_shapes(module), state_dict, transformer_key, module.dtype)


def make_transformer(config: Mapping[str, Any], dtype: Any = None) -> MMDiT:
    """Return the module of the reference constructor's arguments `config`, computing in `dtype`, None for float32.

    A missing argument has the reference's default, an unknown one is ignored. ValueError for values that describe no
    network, or one of another kind.

    >>> make_transformer({"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}).hidden_size
    1536
    """
    full = COUNTS | {name: config[name] for name in COUNTS if name in config}
    for name, value in full.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} of the configuration is {value!r}; it has to be a positive whole number.")
    width, norm = full["num_attention_heads"] * full["attention_head_dim"], config.get("qk_norm")
    if config.get("_class_name", "SD3Transformer2DModel") != "SD3Transformer2DModel":
        raise ValueError(
            f"_class_name of the configuration is {config['_class_name']!r}; only SD3Transformer2DModel is read."
        )
    if full["caption_projection_dim"] != width:
        raise ValueError(
            f"caption_projection_dim is {full['caption_projection_dim']}; it has to be {width}, as the blocks."
        )
    if config.get("dual_attention_layers") or norm not in (None, "rms_norm"):
        raise ValueError("only networks without dual_attention_layers and with qk_norm rms_norm or null can be loaded.")
    return MMDiT(
        sample_size=full["sample_size"],
        positions=full["pos_embed_max_size"],
        in_channels=full["in_channels"],
        out_channels=full["out_channels"],
        patch_size=full["patch_size"],
        hidden_size=width,
        depth=full["num_layers"],
        num_heads=full["num_attention_heads"],
        qk_norm=norm is not None,
        context_dim=full["joint_attention_dim"],
        pooled_dim=full["pooled_projection_dim"],
        dtype=jnp.float32 if dtype is None else dtype,
    )


def transformer_shapes(module: MMDiT) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    sizes = (module.patch_size, module.patch_size, module.in_channels), (1, module.context_dim), (module.pooled_dim,)
    x, context, pooled = (jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes)
    return variable_shapes(module, x, 0.0, context, pooled)


def transformer_key(path: list[str]) -> str:
    """["blocks_3", "to_out_0", "kernel"] -> "transformer_blocks.3.attn.to_out.0.weight"."""
    *modules, leaf = path
    if not modules:
        return "pos_embed.pos_embed"  # the table of positions
    return torch_key([*(NAMES.get(name, name.replace("blocks_", "transformer_blocks.")) for name in modules), leaf])
