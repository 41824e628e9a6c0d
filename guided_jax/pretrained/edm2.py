"""NVIDIA's EDM2 in our network: its weights are divided by their magnitudes and multiplied by their gains, once.

    W = gain w / (1e-4 + rms of w over the inputs of an output) / sqrt(inputs of an output)

Source: [EDM2] Karras et al. 2312.02696 eq. 47 and 66, and the code published with it; `pickles` reads its files.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.edm2 import EDM2
from guided_jax.models.edm2.blocks import EPSILON
from guided_jax.pretrained import state_dict as general

REQUIRED = ("img_resolution", "img_channels", "label_dim")
# Not of the network: sigma_data is of the preconditioning, use_fp16 of the device, dropout of training.
ELSEWHERE = ("sigma_data", "use_fp16", "dropout")
FIELDS = (
    "model_channels",
    "channel_mult",
    "channel_mult_noise",
    "channel_mult_emb",
    "num_blocks",
    "attn_resolutions",
    "channels_per_head",
    "label_balance",
    "concat_balance",
    "res_balance",
    "attn_balance",
    "clip_act",
    "logvar_channels",
)


def make_network(config: Mapping[str, Any], dtype: Any = None) -> EDM2:
    """Return the network of the arguments `config` of the reference's Precond. ValueError for one unknown or missing.

    dtype: of the computation, None for float32.
    """
    known = {*REQUIRED, *FIELDS, *ELSEWHERE, "resample_filter"}
    if unknown := sorted(config.keys() - known):
        raise ValueError(f"the configuration has arguments that the reference does not know: {', '.join(unknown)}.")
    if missing := [name for name in REQUIRED if name not in config]:
        raise ValueError(f"the configuration lacks {', '.join(missing)}.")
    if list(config.get("resample_filter", (1, 1))) != [1, 1]:
        raise ValueError(f"only the resample_filter [1, 1] is supported, not {list(config['resample_filter'])}.")
    given = {name: config[name] for name in (*REQUIRED, *FIELDS) if name in config}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, (list, tuple))}
    return EDM2(**{**given, **lists}, dtype=jnp.float32 if dtype is None else dtype)


def load(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[EDM2, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x, c_noise, label) inside EDM's preconditioning, in NHWC.

    config: the arguments of the reference's Precond. state_dict: torch key -> array, as published. dtype: of the weights
    and of the computation, None for float32; what computes the embeddings and the output is float32. ValueError naming
    every key missing, surplus or misshapen.
    """
    module = make_network(config, dtype)
    join = partial(fold, channels_per_head=module.channels_per_head)
    params = general.import_params(shapes(module), state_dict, torch_keys, module.dtype, join=join, exact=_is_exact)
    return module, params


def shapes(module: EDM2) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    side = module.img_resolution
    x = jax.ShapeDtypeStruct((side, side, module.img_channels), jnp.float32)
    return general.variable_shapes(module.clone(plain_convolution=True), x, 0.0)  # the same parameters, sooner


def torch_keys(path: list[str]) -> tuple[str, ...]:
    """["unet.enc.8x8_down", "emb_linear", "kernel"] -> its weight and its gain, where it has one."""
    key = general.torch_key(path)
    if path[-2] == "emb_linear":
        return key, f"{path[0]}.emb_gain"
    return (key, "unet.out_gain") if path[0] == "unet.out_conv" else (key,)


def fold(path: list[str], tensors: list[np.ndarray], channels_per_head: int) -> np.ndarray:
    """W of the formula, float32; of the labels times sqrt(label_dim), which the reference multiplies their one-hots by.

    path: in the tree. tensors: [w, gain] or [w], in torch's layout; frequencies and phases stay as they are. The outputs of
    attn_qkv are ordered (head, part, channel), for `blocks.split_heads`, where the reference orders (head, channel, part).
    """
    w, gains = tensors[0].astype(np.float32), tensors[1:]
    if misshapen := [gain for gain in gains if gain.ndim]:
        return misshapen[0]  # and so are weights without outputs or heads: `import_params` names them
    if path[-1] != "kernel" or w.ndim < 2 or not w.size:
        return w
    rows: np.ndarray = w.reshape(len(w), -1)
    inputs = 1 if path[0] == "unet.emb_label" else rows.shape[1]
    # In place, as the largest tensors are tens of megabytes.
    rms = np.sqrt(np.einsum("oi,oi->o", rows, rows, dtype=np.float64) / rows.shape[1])
    factor = math.prod(float(gain) for gain in gains) / (EPSILON + rms) / math.sqrt(inputs)
    rows *= factor.astype(np.float32)[:, None]
    heads = len(w) // 3 // channels_per_head
    if path[-2] == "attn_qkv" and heads and len(w) % (3 * heads) == 0:
        rows = rows.reshape(heads, -1, 3, rows.shape[1]).swapaxes(1, 2)
    return rows.reshape(w.shape)


def _is_exact(path: list[str]) -> bool:
    """Return whether the network computes with it in float32 always."""
    return path[-2] == "emb_linear" or path[0].startswith(("unet.emb_", "unet.out_", "logvar_"))
