"""The encoder of T5 with published weights, in `models.T5Encoder`: the files of transformers.

    transformers  encoder.block.3.layer.0.SelfAttention.q.weight, k, v           shared.weight is the table of tokens
    here          params / layers_3 / attention / qkv / kernel

Source: [T5] Raffel et al. 1910.10683.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.t5 import T5Encoder
from guided_jax.pretrained.state_dict import Keys, import_params, variable_shapes

# Names of transformers' arguments -> our fields; what is missing has our default, which is transformers'.
FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "width",
    "num_layers": "depth",
    "num_heads": "num_heads",
    "d_kv": "head_width",
    "d_ff": "mlp_width",
    "relative_attention_num_buckets": "buckets",
    "relative_attention_max_distance": "max_distance",
    "layer_norm_epsilon": "norm_epsilon",
}
# feed_forward_proj -> activation, whether there are gates.
INNER = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
NAMES = {
    "attention.out": "layer.0.SelfAttention.o",
    "norm_1": "layer.0.layer_norm",
    "fc2": "layer.1.DenseReluDense.wo",
    "norm_2": "layer.1.layer_norm",
}
TABLE, COPY = "shared.weight", "encoder.embed_tokens.weight"  # one table by two names, of which a file has one or both


def load(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[T5Encoder, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, ids, mask) -> states.

    config: config.json as a dict. state_dict: torch key -> array; the decoder of a whole T5 is ignored. Both of a folder:
    `readers.read_component`. dtype: of the layers' products, None for float32; embeddings and norms are float32.
    ValueError naming every key missing, surplus or misshapen, and for a configuration of another network.
    """
    module = make_network(config, dtype)
    table = COPY if TABLE not in state_dict and COPY in state_dict else TABLE
    fixed = {COPY: TABLE} if {TABLE, COPY} <= state_dict.keys() else {}

    def key_of(path: list[str]) -> Keys:
        return table if path[0] == "token_embedding" else torch_key(path, module.gated)

    ignored = lambda key: key.startswith(("decoder.", "lm_head."))  # noqa: E731
    return module, import_params(shapes(module), state_dict, key_of, module.dtype, ignored, fixed, exact=_is_exact)


def make_network(config: Mapping[str, Any], dtype: Any = None) -> T5Encoder:
    """Return the encoder of a config, computing in `dtype`, None for float32; unknown keys are ignored.

    ValueError for a configuration of another network.

    >>> make_network({"d_model": 4096, "feed_forward_proj": "gated-gelu"}).gated
    True
    """
    if config.get("model_type", "t5") != "t5":
        raise ValueError(f"the configuration is of a {config['model_type']}; only t5 can be loaded.")
    inner = config.get("feed_forward_proj", "relu")
    if inner not in INNER:
        raise ValueError(f"feed_forward_proj of the configuration is {inner!r}; there is {', '.join(INNER)}.")
    fields = {field: config[name] for name, field in FIELDS.items() if name in config}
    fields["activation"], fields["gated"] = INNER[inner]
    return T5Encoder(**fields, dtype=jnp.float32 if dtype is None else dtype)


def shapes(module: T5Encoder) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    return variable_shapes(module, jax.ShapeDtypeStruct((1,), jnp.int32))


def torch_key(path: list[str], gated: bool = True) -> Keys:
    """["layers_3", "fc2", "kernel"] -> "encoder.block.3.layer.1.DenseReluDense.wo.weight"; those of q, k, v for "qkv".

    gated: whether the inner layer has two matrices, wi_0 and wi_1, and not one, wi.
    """
    if path[0] == "token_embedding":
        return TABLE
    if path[0] == "distance_bias":
        return "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if path[0] == "final_norm":
        return "encoder.final_layer_norm.weight"
    layer, name = path[0].replace("layers_", "encoder.block."), ".".join(path[1:-1])
    if name == "attention.qkv":
        return tuple(f"{layer}.layer.0.SelfAttention.{part}.weight" for part in "qkv")
    inner = {"fc0": "wi_0" if gated else "wi", "fc1": "wi_1"}
    return f"{layer}.{NAMES[name] if name in NAMES else f'layer.1.DenseReluDense.{inner[name]}'}.weight"


def _is_exact(path: list[str]) -> bool:
    """Return whether the network computes with it in float32 always."""
    return path[-1] == "embedding" or any("norm" in name for name in path)
