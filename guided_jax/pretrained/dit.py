"""Published DiT and SiT in `models.DiT`: ImageNet latents at 256 and 512 pixels, and networks of the same kind.

    original, SiT, REPA  "blocks.3.attn.qkv.weight"                            config: the constructor's arguments
    diffusers            "transformer_blocks.3.attn1.to_q.weight", to_k, to_v  config: config.json
    here                 params / blocks_3 / qkv / kernel

The time is [DiT]'s step, 0 to 999; in [SiT] t = 1 is data and the output data - noise; in [REPA] t = 1 is noise and the
output noise - data. Any config goes with any of these key layouts. diffusers computes with the same weights something
else: its frequencies of the time have another exponent, and its second layer norm another epsilon; `like` says whose
numbers are wanted.

Sources: [DiT] Peebles and Xie 2212.09748; [SiT] Ma et al. 2401.08740; [REPA] Yu et al. 2410.06940; [IG] Zhou et al.
2512.24176, whose second head becomes `internal_head`.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.transformer import DiT, position_table
from guided_jax.pretrained.state_dict import Keys, import_params, torch_key, variable_shapes

# The constructors' arguments and their values when they are left out.
ORIGINAL: dict[str, Any] = {
    "input_size": 32,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 1152,
    "depth": 28,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "class_dropout_prob": 0.1,
    "num_classes": 1000,
    "learn_sigma": True,
}
REPA: dict[str, Any] = {  # what its SiT has besides, and the second head's block, counted from 1
    "path_type": "edm",
    "decoder_hidden_size": None,
    "encoder_depth": 8,
    "use_cfg": False,
    "z_dims": (),
    "projector_dim": 2048,
    "fused_attn": True,
    "qk_norm": False,
}
DIFFUSERS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
ONE_KIND = ("activation_fn", "attention_bias", "norm_type", "norm_elementwise_affine")  # of DiT, and nothing else here

# Names in `models.DiT` -> those of the original, and of diffusers, whose blocks all repeat the embedders.
NAMES = {
    "x_embedder": "x_embedder.proj",
    "t_embedder_0": "t_embedder.mlp.0",
    "t_embedder_2": "t_embedder.mlp.2",
    "y_embedder": "y_embedder.embedding_table",
    "internal_layer": "final_layer_xr",
    "modulation": "adaLN_modulation.1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
EMBEDDERS = {
    "t_embedder_0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder_2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder": "norm1.emb.class_embedder.embedding_table",
}
DIFFUSERS_NAMES = {
    "x_embedder": "pos_embed.proj",
    **{name: f"transformer_blocks.0.{own}" for name, own in EMBEDDERS.items()},
    "final_layer.modulation": "proj_out_1",
    "final_layer.linear": "proj_out_2",
    "modulation": "norm1.linear",
    "proj": "attn1.to_out.0",
    "fc1": "ff.net.0.proj",
    "fc2": "ff.net.2",
}


def load(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], like: str = "original", dtype: Any = None
) -> tuple[DiT, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, t, label), x NHWC with any number of batch axes.

    config, like, dtype: as of `make_network`; dtype is that of the parameters too. state_dict: torch key -> array, of any
    of the layouts; projectors that only training reads are left out. A SiT with learned sigma returns the velocity and as
    many channels that mean nothing, unless `drop_variance` of the module drops them. ValueError naming every key missing,
    surplus or misshapen, embedders of blocks that differ, and a table of positions that is not the fixed one.
    """
    module = make_network(config, like, dtype)
    if any(key.startswith("final_layer_xr.") for key in state_dict):
        module = module.clone(internal_head={**REPA, **config}["encoder_depth"] - 1)
    dtype = jnp.float32 if dtype is None else dtype
    if any(key.startswith(("transformer_blocks.", "pos_embed.proj.")) for key in state_dict):
        return module, import_params(shapes(module), state_dict, diffusers_key, dtype, fixed=_copies(module))
    first = len({key.split(".")[1] for key in state_dict if key.startswith("blocks.")})
    legacy = any(key.startswith("decoder_blocks.") for key in state_dict)

    def key_of(path: list[str]) -> str:
        key = original_key(path)
        return _decoder_key(key, first) if legacy else key

    fixed = {"pos_embed": _positions(module)}
    ignored = lambda key: key.startswith("projectors.")  # noqa: E731
    return module, import_params(shapes(module), state_dict, key_of, dtype, ignored, fixed)


def make_network(config: Mapping[str, Any], like: str = "original", dtype: Any = None) -> DiT:
    """Return the network that a config describes. ValueError for arguments that are unknown or that it has no layer for.

    config: the arguments of the constructor of DiT, SiT or REPA's SiT, or the config.json of diffusers, of which unknown
    keys are ignored; what is left out has the constructor's default. A `_class_name` with SiT in it drops the variance.
    like: "original", or "diffusers", which computes with its two deviations, and spreads positions over other sizes.
    dtype: of the computation; None for float32.

    >>> make_network({"input_size": 8, "hidden_size": 64, "depth": 2, "num_heads": 4}).out_channels
    8
    """
    if like not in ("original", "diffusers"):
        raise ValueError(f"like is {like!r}; it is original or diffusers")
    if own := config.keys() & (DIFFUSERS.keys() - ORIGINAL.keys()):
        fields = _from_diffusers(config)
    else:
        fields = _from_original(config)
    epsilon = config.get("norm_eps", DIFFUSERS["norm_eps"]) if own else DIFFUSERS["norm_eps"]
    if like == "diffusers":
        fields |= {"frequency_shift": 1, "norm_epsilon": epsilon, "stretch_positions": True}
    drops = "SiT" in config.get("_class_name", "") and fields["out_channels"] == 2 * fields["in_channels"]
    return DiT(**fields, drop_variance=drops, dtype=jnp.float32 if dtype is None else dtype)


def shapes(module: DiT) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    x = jax.ShapeDtypeStruct((module.input_size, module.input_size, module.in_channels), jnp.float32)
    label = None if module.num_classes is None else 0
    return variable_shapes(module, x, 0.0, label)


def original_key(path: list[str]) -> str:
    """["blocks_3", "qkv", "kernel"] -> "blocks.3.attn.qkv.weight"."""
    *modules, leaf = path
    return torch_key([*(NAMES.get(name, name.replace("blocks_", "blocks.")) for name in modules), leaf])


def diffusers_key(path: list[str]) -> Keys:
    """["blocks_3", "fc1", "kernel"] -> "transformer_blocks.3.ff.net.0.proj.weight"; those of q, k and v for "qkv"."""
    *modules, leaf = path
    names = [name.replace("blocks_", "transformer_blocks.") for name in modules]
    if names[-1] == "qkv":
        return tuple(torch_key([names[0], f"attn1.to_{part}", leaf]) for part in "qkv")
    if (whole := ".".join(names)) in DIFFUSERS_NAMES:
        return torch_key([DIFFUSERS_NAMES[whole], leaf])
    return torch_key([*(DIFFUSERS_NAMES.get(name, name) for name in names), leaf])


def _copies(module: DiT) -> dict[str, str]:
    """Return the embedders of diffusers' blocks after the first: their keys -> those that they repeat."""
    layers = [(EMBEDDERS[name], part) for name in EMBEDDERS for part in ("weight", "bias")]
    layers.remove((EMBEDDERS["y_embedder"], "bias"))
    return {
        f"transformer_blocks.{i}.{name}.{part}": f"transformer_blocks.0.{name}.{part}"
        for i in range(1, module.depth)
        for name, part in layers
    }


def _positions(module: DiT) -> np.ndarray:
    """Return the table of positions, [1, positions, hidden_size], as files of the original have it."""
    side = module.input_size // module.patch_size
    return np.asarray(position_table(side, side, side, module.hidden_size)).reshape(1, side**2, -1)


def _decoder_key(key: str, first: int) -> str:
    """Return the name in REPA's older files, which count the blocks after the aligned one, number `first`, anew."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.*)", key)
    if match is None or int(match[1]) < first:
        return key
    return f"decoder_blocks.{int(match[1]) - first}.{match[2]}"


def _from_original(config: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    if unknown := sorted(config.keys() - ORIGINAL.keys() - REPA.keys()):
        raise ValueError(f"the configuration has arguments that neither DiT nor SiT knows: {', '.join(unknown)}.")
    aligned = not REPA.keys().isdisjoint(config)  # REPA's SiT never learns sigma
    full = {**ORIGINAL, "learn_sigma": not aligned, **REPA, **config}
    if full["qk_norm"] or full["decoder_hidden_size"] not in (None, full["hidden_size"]):
        raise ValueError("qk_norm and a decoder_hidden_size other than hidden_size are not supported.")
    same = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "mlp_ratio", "num_classes")
    return {name: full[name] for name in same} | {
        "out_channels": full["in_channels"] * (2 if full["learn_sigma"] else 1),
        "null_label": full["class_dropout_prob"] > 0,
    }


def _from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    full = {**DIFFUSERS, **config}
    if other := {name: full[name] for name in ONE_KIND if full[name] != DIFFUSERS[name]}:
        raise ValueError(f"{other} describes another transformer than DiT, which has {DIFFUSERS['norm_type']} norms.")
    return {
        "input_size": full["sample_size"],
        "patch_size": full["patch_size"],
        "in_channels": full["in_channels"],
        "out_channels": full["in_channels"] if full["out_channels"] is None else full["out_channels"],
        "hidden_size": full["num_attention_heads"] * full["attention_head_dim"],
        "depth": full["num_layers"],
        "num_heads": full["num_attention_heads"],
        "num_classes": full["num_embeds_ada_norm"],
    }
