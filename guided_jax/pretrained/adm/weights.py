"""The published ADM weights (torch layout) in our networks.

    torch  "input_blocks.3.0.in_layers.2.weight" [out, in, kh, kw]
    here   params / input_blocks_3_0 / in_layers_2 / kernel [kh, kw, in, out]

Only names and layouts change: a convolution's axes are moved, a linear layer or a 1x1 convolution is transposed, all else
is copied. `read_state_dict` reads the file.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models import Classifier, UNet

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
    """The U-Net of the reference constructor's arguments `config`. ValueError for an argument unknown or missing."""
    config = _complete(config, num_classes=None)
    return UNet(
        out_channels=config["out_channels"],
        num_heads_upsample=_given(config["num_heads_upsample"]),
        num_classes=config["num_classes"],
        **_shared(config),
    )


def classifier(config: Mapping[str, Any]) -> Classifier:
    """The classifier of the reference constructor's arguments `config`; its `out_channels` are the classes."""
    config = _complete(config, pool="adaptive")
    return Classifier(num_classes=config["out_channels"], pool=config["pool"], **_shared(config))


def load_unet(config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]) -> tuple[UNet, dict[str, Any]]:
    """(module, params), used as module.apply(params, x, t, label, low_res) with images in NHWC.

    config: the reference constructor's arguments. state_dict: torch key -> array. A first convolution of twice
    `in_channels` makes it the super-resolution network. ValueError naming every key missing, surplus or misshapen.
    """
    module = unet(config)
    first = state_dict.get("input_blocks.0.0.weight")
    super_resolution = first is not None and first.ndim == 4 and first.shape[1] == 2 * config["in_channels"]
    return module, import_params(unet_shapes(module, config, super_resolution), state_dict)


def load_classifier(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]
) -> tuple[Classifier, dict[str, Any]]:
    """(module, params), used as module.apply(params, x, t); arguments and errors as for `load_unet`."""
    module = classifier(config)
    return module, import_params(classifier_shapes(module, config), state_dict)


def unet_shapes(module: UNet, config: Mapping[str, Any], super_resolution: bool = False) -> dict[str, Any]:
    """The variables of `module` as shapes; nothing is allocated."""
    x = _image(config)
    label = None if module.num_classes is None else 0
    low_res = x if super_resolution else None
    return jax.eval_shape(lambda x, low: module.init(jax.random.key(0), x, 0, label, low), x, low_res)


def classifier_shapes(module: Classifier, config: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of `module` as shapes; nothing is allocated."""
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, 0), _image(config))


def import_params(
    shapes: dict[str, Any], state_dict: Mapping[str, np.ndarray], key_of: Callable[[list[str]], str] | None = None
) -> dict[str, Any]:
    """The tree of `shapes` filled from `state_dict`, float32. ValueError naming all that does not fit.

    key_of: a path in the tree to its torch key; `torch_key` if not given.
    """
    key_of = key_of or torch_key
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes["params"])
    paths = {key_of(path): (path, leaf) for path, leaf in (([e.key for e in keys], leaf) for keys, leaf in leaves)}
    expected = {key: leaf.shape for key, (_, leaf) in paths.items()}
    # One tensor at a time, so that no more than one is in memory twice.
    arrays = {
        key: _placed(np.asarray(state_dict[key]), leaf.ndim, path[-1] == "kernel")
        for key, (path, leaf) in paths.items()
        if key in state_dict
    }
    if problems := list(_mismatches(expected, arrays, state_dict)):
        raise ValueError("the weights do not fit the configuration: " + "; ".join(problems) + ".")
    return {"params": jax.tree_util.tree_unflatten(structure, [arrays[key] for key in expected])}


def _placed(array: np.ndarray, ndim: int, kernel: bool) -> jax.Array:
    return jnp.asarray(from_torch(array, ndim) if kernel else array, jnp.float32)


def torch_key(path: list[str]) -> str:
    """["input_blocks_3_0", "in_layers_2", "kernel"] -> "input_blocks.3.0.in_layers.2.weight"."""
    *modules, leaf = path
    leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    return ".".join([re.sub(r"_(\d+)", r".\1", module) for module in modules] + [leaf])


def from_torch(kernel: np.ndarray, ndim: int) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out] for ndim 4; [out, in, 1...] -> [in, out] for ndim 2; else unchanged."""
    if kernel.ndim == 4 and ndim == 4:
        return kernel.transpose(2, 3, 1, 0)
    if ndim == 2 and kernel.ndim >= 2 and all(side == 1 for side in kernel.shape[2:]):
        return kernel.reshape(kernel.shape[:2]).T
    return kernel


def _mismatches(expected: dict, arrays: dict, state_dict: Mapping[str, np.ndarray]) -> Iterator[str]:
    if missing := sorted(expected.keys() - arrays.keys()):
        yield "missing " + ", ".join(missing)
    if surplus := sorted(state_dict.keys() - expected.keys()):
        yield "surplus " + ", ".join(surplus)
    wrong = [key for key in arrays if arrays[key].shape != expected[key]]
    if wrong:
        shapes = (f"{key} (torch shape {np.shape(state_dict[key])}, here {expected[key]})" for key in wrong)
        yield "misshapen " + ", ".join(shapes)


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
