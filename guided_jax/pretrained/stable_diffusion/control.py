"""ControlNets with published weights, in diffusers' layout, and in their authors'.

    diffusers  controlnet_cond_embedding.blocks.3   controlnet_down_blocks.2       controlnet_mid_block
    authors    control_model.input_hint_block.8     control_model.zero_convs.2.0   control_model.middle_block_out.0
    here       input_hint_block_8                   zero_convs_2_0                 middle_block_out_0

All else is named as in the U-Net that they are a copy of. The configuration is diffusers' config.json.

Source: [CN] Zhang et al. 2302.05543.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.stable_diffusion import ControlNet
from guided_jax.pretrained.stable_diffusion.names import compvis_key, diffusers_key
from guided_jax.pretrained.stable_diffusion.unet import example_inputs, make_unet
from guided_jax.pretrained.state_dict import import_params, torch_key, variable_shapes

PREFIX = "control_model."  # in a single file of the authors, which may hold the model that it steers as well
# What we know of arguments that could describe another network; the first is their default.
ONLY: dict[str, tuple[Any, ...]] = {
    "_class_name": ("ControlNetModel",),
    "controlnet_conditioning_channel_order": ("rgb",),
    "global_pool_conditions": (False,),
}
WIDTHS = (16, 32, 96, 256)  # the default of conditioning_embedding_out_channels


def load_control(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[ControlNet, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, t, context, image) -> `Residuals`, which the U-Net takes.

    config: the reference constructor's arguments, or its config.json as a dict. state_dict: torch key -> array, in either
    layout; of the authors' files the rest is ignored. dtype: of the weights and of the computation, None for float32.
    ValueError naming every key missing, surplus or misshapen, and for a configuration of another network.

    >>> load_control({"block_out_channels": [32, 64, 64, 64]}, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the weights do not fit the configuration: missing controlnet_cond_embedding.blocks.0.bias, ...
    """
    module = make_control(config, dtype)
    key_of, ignored = _read_layout(state_dict, module)
    return module, import_params(control_shapes(module), state_dict, key_of, module.unet.dtype, ignored)


def make_control(config: Mapping[str, Any], dtype: Any = None) -> ControlNet:
    """Return the module of the reference constructor's arguments `config`, computing in `dtype`, None for float32.

    A missing argument has the reference's default, an unknown one is ignored. ValueError for values that describe no
    network, or one of another kind.
    """
    for name, allowed in ONLY.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"{name} of the configuration is {config[name]!r}; only {allowed[0]} is a ControlNet that can be loaded."
            )
    channels, widths = config.get("conditioning_channels", 3), config.get("conditioning_embedding_out_channels", WIDTHS)
    if not isinstance(widths, list | tuple) or not all(
        isinstance(each, int) and each > 0 for each in (channels, *widths)
    ):
        raise ValueError(
            f"conditioning_channels and conditioning_embedding_out_channels of the configuration are {channels!r} and "
            f"{widths!r}; they have to be positive whole numbers."
        )
    # A ControlNet says nothing of the way up, which is that of the U-Net.
    own = {name: value for name, value in config.items() if name not in ("_class_name", "out_channels")}
    if "down_block_types" in own:
        own["up_block_types"] = [kind.replace("Down", "Up") for kind in reversed(own["down_block_types"])]
    return ControlNet(make_unet(own, dtype), channels, tuple(widths))


def control_shapes(module: ControlNet) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    given = example_inputs(module.unet)
    *_, height, width, _ = given["x"].shape
    factor = 2 ** (len(module.widths) - 1)
    image = jax.ShapeDtypeStruct((factor * height, factor * width, module.image_channels), jnp.float32)
    return variable_shapes(module, t=0.0, image=image, **given)


def control_key(path: list[str], layers_per_block: int, hints: int) -> str:
    """["zero_convs_2_0", "kernel"] -> "controlnet_down_blocks.2.weight"; hints: layers that read the picture."""
    match = re.fullmatch(r"(zero_convs|input_hint_block)_(\d+)(_0)?", path[0])
    if path[0] == "middle_block_out_0":
        name = "controlnet_mid_block"
    elif match is None:
        return diffusers_key(path, layers_per_block)
    elif match[1] == "zero_convs":
        name = f"controlnet_down_blocks.{match[2]}"
    else:
        index = int(match[2]) // 2
        name = "controlnet_cond_embedding." + {0: "conv_in", hints - 1: "conv_out"}.get(index, f"blocks.{index - 1}")
    return torch_key([name, path[-1]])


def _read_layout(keys: Iterable[str], module: ControlNet) -> tuple[Callable[[list[str]], str], Callable[[str], bool]]:
    """Return path in our tree -> key, and key -> whether to ignore it, for a file of these `keys`."""
    keys = list(keys)
    prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
    if prefix or any(key.startswith("input_hint_block.") for key in keys):
        return lambda path: prefix + compvis_key(path), lambda key: not key.startswith(prefix)
    layers, hints = module.unet.layers_per_block, 2 * len(module.widths)
    return lambda path: control_key(path, layers, hints), lambda key: False
