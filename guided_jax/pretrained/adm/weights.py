"""The published ADM weights in our networks: which network a configuration describes, and its torch keys."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models import Classifier, UNet
from guided_jax.pretrained import state_dict as general

# The reference constructors' arguments; attention_resolutions are downsampling factors.
REQUIRED = (
    "image_size",
    "in_channels",
    "model_channels",
    "out_channels",
    "num_res_blocks",
    "attention_resolutions",
)
DEFAULTS: dict[str, Any] = {
    "dropout": 0.0,
    "channel_mult": (1, 2, 4, 8),
    "conv_resample": True,
    "dims": 2,
    "use_checkpoint": False,  # recomputation in the backward pass; changes no number
    "use_fp16": False,
    "num_heads": 1,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
}
SAME_NAME = (
    "model_channels",
    "num_res_blocks",
    "dropout",
    "conv_resample",
    "num_heads",
    "use_scale_shift_norm",
    "resblock_updown",
    "use_new_attention_order",
)


def unet(config: Mapping[str, Any]) -> UNet:
    """Return the U-Net of the reference constructor's arguments `config`. ValueError for one unknown or missing."""
    config = _complete(config, num_classes=None)
    return UNet(
        out_channels=config["out_channels"],
        num_heads_upsample=_given(config["num_heads_upsample"]),
        num_classes=config["num_classes"],
        **_shared(config),
    )


def classifier(config: Mapping[str, Any]) -> Classifier:
    """Return the classifier of the reference constructor's arguments `config`; its `out_channels` are the classes."""
    config = _complete(config, pool="adaptive")
    return Classifier(num_classes=config["out_channels"], pool=config["pool"], **_shared(config))


def load_unet(config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]) -> tuple[UNet, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, t, label, low_res) with images in NHWC.

    config: the reference constructor's arguments. state_dict: torch key -> array. A first convolution of twice
    `in_channels` makes it the super-resolution network. ValueError naming every key missing, surplus or misshapen.

    >>> config = {"image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 6, "num_res_blocks": 1}
    >>> config |= {"attention_resolutions": (), "channel_mult": (1,), "use_scale_shift_norm": True}
    >>> shapes = unet_shapes(unet(config), config)
    >>> shapes["params"]["input_blocks_0_0"]["kernel"].shape  # the torch key input_blocks.0.0.weight, (32, 3, 3, 3)
    (3, 3, 3, 32)
    >>> load_unet(config, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the weights do not fit the configuration: missing input_blocks.0.0.bias, ...
    """
    module = unet(config)
    first = state_dict.get("input_blocks.0.0.weight")
    super_resolution = first is not None and first.ndim == 4 and first.shape[1] == 2 * config["in_channels"]
    return module, import_params(unet_shapes(module, config, super_resolution), state_dict)


def load_classifier(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]
) -> tuple[Classifier, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, t); arguments and errors as for `load_unet`."""
    module = classifier(config)
    return module, import_params(classifier_shapes(module, config), state_dict)


def unet_shapes(module: UNet, config: Mapping[str, Any], super_resolution: bool = False) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    x = _image(config)
    label = None if module.num_classes is None else 0
    low_res = x if super_resolution else None
    return general.variable_shapes(module, x, 0, label, low_res)


def classifier_shapes(module: Classifier, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    return general.variable_shapes(module, _image(config), 0)


def torch_key(path: list[str]) -> str:
    """["input_blocks_3_0", "in_layers_2", "kernel"] -> "input_blocks.3.0.in_layers.2.weight"."""
    *modules, leaf = path
    return general.torch_key([*(re.sub(r"_(\d+)", r".\1", module) for module in modules), leaf])


def import_params(
    shapes: dict[str, Any], state_dict: Mapping[str, np.ndarray], key_of: Callable[[list[str]], str] = torch_key
) -> dict[str, Any]:
    """`pretrained.state_dict.import_params`, by default with the keys of ADM's weights."""
    return general.import_params(shapes, state_dict, key_of)


def _complete(config: Mapping[str, Any], **own_defaults: Any) -> dict[str, Any]:
    defaults = DEFAULTS | own_defaults
    if unknown := sorted(config.keys() - defaults.keys() - set(REQUIRED)):
        raise ValueError(f"the configuration has arguments that the reference does not know: {', '.join(unknown)}.")
    if missing := [name for name in REQUIRED if name not in config]:
        raise ValueError(f"the configuration lacks {', '.join(missing)}.")
    complete = {**defaults, **config}
    if complete["dims"] != 2:
        raise ValueError("only images are supported: dims has to be 2.")
    return complete


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in SAME_NAME} | {
        "channel_mult": tuple(config["channel_mult"]),
        "attention_resolutions": tuple(config["attention_resolutions"]),
        "num_head_channels": _given(config["num_head_channels"]),
        "dtype": jnp.float16 if config["use_fp16"] else jnp.float32,
    }


def _given(number: int) -> int | None:
    return None if number == -1 else number


def _image(config: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    size = config["image_size"]
    return jax.ShapeDtypeStruct((size, size, config["in_channels"]), jnp.float32)
