"""AutoencoderKL with published weights: diffusers' files, of now and of before, and the single files of CompVis.

    diffusers  decoder.up_blocks.0.resnets.1.conv1.weight       decoder.mid_block.attentions.0.to_q.weight
    before     decoder.up_blocks.0.resnets.1.conv1.weight       decoder.mid_block.attentions.0.query.weight
    CompVis    first_stage_model.decoder.up.3.block.1.conv1.weight       first_stage_model.decoder.mid.attn_1.q.weight

CompVis counts the levels of the decoder from the highest resolution, and its attention has 1x1 convolutions.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.autoencoder import AutoencoderKL, check_groups
from guided_jax.pretrained.state_dict import import_params, variable_shapes
from guided_jax.pretrained.state_dict import torch_key as general_key

# The arguments of the reference's constructor that we read, with its defaults.
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
# What we know of arguments that could describe another network; a list has one for each level.
ONLY = {
    "_class_name": ("AutoencoderKL",),
    "act_fn": ("silu", "swish"),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
}
PREFIX = "first_stage_model."  # of the autoencoder in a single file of a whole model
TRAINING = ("loss.", "model_ema.")  # of what it was trained with
# The names of the layers in diffusers' format -> those of before, and of CompVis.
BEFORE = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
COMPVIS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "group_norm": "norm",
    "down_blocks": "down",
    "up_blocks": "up",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}


class Latents(NamedTuple):
    """x = (z - shift) * scale: what a diffusion model works on, given z of the encoder; float32, () or (channels,)."""

    shift: np.ndarray
    scale: np.ndarray


def load(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, image, method="encode") and (params, z, method="decode").

    config: the reference constructor's arguments, or its config.json as a dict. state_dict: torch key -> array, in any
    of the three layouts. dtype: of the weights and of the computation, None for float32. ValueError naming every key
    missing, surplus or misshapen, and for a configuration of another network.

    >>> load({"block_out_channels": [32, 64], "use_quant_conv": False}, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the weights do not fit the configuration: missing decoder.conv_in.bias, ...
    """
    module = make_autoencoder(config, dtype)
    key_of, ignored = read_layout(list(state_dict), len(module.block_out_channels))
    return module, import_params(shapes(module), state_dict, key_of, module.dtype, ignored)


def make_autoencoder(config: Mapping[str, Any], dtype: Any = None) -> AutoencoderKL:
    """Return the module of the reference constructor's arguments `config`, computing in `dtype`, None for float32.

    A missing argument has the reference's default, an unknown one is ignored. ValueError for values that describe no
    network, or one of another kind.
    """
    given = DEFAULTS | {name: config[name] for name in DEFAULTS if name in config}
    for name, value in given.items():
        check_argument(name, value)
    for name, allowed in ONLY.items():
        check_kind(name, config.get(name), allowed, len(given["block_out_channels"]))
    given["block_out_channels"] = tuple(given["block_out_channels"])
    check_groups(given["block_out_channels"], given["norm_num_groups"])
    return AutoencoderKL(**given, dtype=jnp.float32 if dtype is None else dtype)


def shapes(module: AutoencoderKL) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    side = 2 ** (len(module.block_out_channels) - 1)
    image = jax.ShapeDtypeStruct((side, side, module.in_channels), jnp.float32)
    return variable_shapes(module, image)


def latents(config: Mapping[str, Any]) -> Latents:
    """Return shift and scale of the configuration: x = (z - shift_factor) * scaling_factor.

    Where `config` has latents_mean and latents_std, a number for each channel, x = (z - mean) * scaling_factor / std.
    ValueError for one that is not finite, and for a scale of 0.

    >>> float(latents({"scaling_factor": 0.25}).scale)
    0.25
    """
    channels = config.get("latent_channels", DEFAULTS["latent_channels"])
    shift = read_numbers(config, "shift_factor", 0.0)
    scale = read_numbers(config, "scaling_factor", 0.18215)
    mean = read_numbers(config, "latents_mean", shift, channels)
    std = read_numbers(config, "latents_std", 1.0, channels)
    if not np.all(scale * std):
        raise ValueError("scaling_factor or latents_std of the configuration is 0, which no latent can be divided by.")
    return Latents(np.asarray(mean, np.float32), np.asarray(scale / std, np.float32))


def torch_key(path: list[str]) -> str:
    """["decoder", "up_blocks_0_resnets_1", "conv1", "kernel"] -> "decoder.up_blocks.0.resnets.1.conv1.weight"."""
    *modules, leaf = path
    named = [re.sub(r"_(\d+)_?", r".\1.", each).rstrip(".").replace("mid_block_", "mid_block.") for each in modules]
    return general_key([*named, leaf])


def read_layout(keys: list[str], levels: int) -> tuple[Callable[[list[str]], str], Callable[[str], bool]]:
    """Return path in our tree -> key, and key -> whether to ignore it, for a file of these `keys` and so many `levels`."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
    if any(re.match(prefix + r"(en|de)coder\.(down|up|mid|norm_out)\.", key) for key in keys):
        # With a prefix there are other networks in the file, without one perhaps what the autoencoder was trained with.
        return (
            lambda path: prefix + compvis_key(torch_key(path), levels),
            lambda key: not key.startswith(prefix) or key.removeprefix(prefix).startswith(TRAINING),
        )
    before = any(".query." in key or ".proj_attn." in key for key in keys)
    renamed = BEFORE if before else {}
    return lambda path: rename(torch_key(path), renamed), lambda key: False


def compvis_key(key: str, levels: int) -> str:
    """ "decoder.up_blocks.0.resnets.1.conv1.weight" -> "decoder.up.3.block.1.conv1.weight" of 4 `levels`."""
    key = re.sub(r"(?<=up_blocks\.)\d+", lambda found: str(levels - 1 - int(found[0])), key)
    return rename(key, COMPVIS)


def rename(key: str, names: Mapping[str, str]) -> str:
    """Return the key with each whole part of it that is in `names` replaced."""
    for name, other in names.items():
        key = re.sub(rf"(^|\.){re.escape(name)}(?=\.)", rf"\g<1>{other}", key)
    return key


def read_numbers(config: Mapping[str, Any], name: str, default: Any, count: int = 1) -> np.ndarray:
    """Return the number, or the list of `count`, of this `name` in `config`; `default` for none. ValueError otherwise."""
    if (value := config.get(name)) is None:
        return np.asarray(default)
    listed = isinstance(value, list | tuple)
    if not all(map(is_finite, value if listed else [value])) or (listed and len(value) != count):
        wanted = "a number" if count == 1 else f"a number or a list of {count}"
        raise ValueError(f"{name} of the configuration is {value!r}; it has to be {wanted}.")
    return np.asarray(value)


def check_argument(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is of the kind of the default of the argument `name`, and a number positive."""
    default = DEFAULTS[name]
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = is_count(value), "a positive whole number"
    else:
        fits = isinstance(value, list | tuple) and bool(value) and all(map(is_count, value))
        wanted = "a list of positive whole numbers, one for each level"
    if not fits:
        raise ValueError(f"{name} of the configuration is {value!r}; it has to be {wanted}.")


def check_kind(name: str, value: Any, allowed: tuple[str, ...], levels: int) -> None:
    """Raise ValueError unless `value` of the argument `name` is None, one of `allowed`, or a list of them for `levels`."""
    if value is None or (isinstance(value, str) and value in allowed):
        return
    if not isinstance(value, list | tuple) or list(value) != [allowed[0]] * levels:
        wanted = f"{levels} times {allowed[0]}" if name.endswith("types") else allowed[0]
        raise ValueError(
            f"{name} of the configuration is {value!r}; only {wanted} is an autoencoder that can be loaded."
        )


def is_count(value: Any) -> bool:
    """Return whether `value` is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_finite(value: Any) -> bool:
    """Return whether `value` is a finite number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
