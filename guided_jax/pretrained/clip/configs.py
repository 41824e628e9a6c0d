"""The fields of `models.clip` that a configuration of transformers or of OpenCLIP describes."""

from collections.abc import Mapping
from typing import Any

from guided_jax.models.clip.towers import LEGACY_EOS
from guided_jax.models.sequence import ACTIVATIONS

# Names of transformers' arguments -> our fields, and the defaults of its constructors.
COMMON = {
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_epsilon",
    "projection_dim": "projection_width",
}
TEXT = COMMON | {"vocab_size": "vocab_size", "max_position_embeddings": "max_length", "eos_token_id": "eos_token_id"}
VISION = COMMON | {"image_size": "image_size", "patch_size": "patch_size", "num_channels": "channels"}
COMMON_DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}
TEXT_DEFAULTS = COMMON_DEFAULTS | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
VISION_DEFAULTS = COMMON_DEFAULTS | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
# What another tower than CLIP's says in OpenCLIP's configuration.
FOREIGN = ("timm_model_name", "hf_model_name", "attentional_pool", "no_causal_mask", "embed_cls", "ls_init_value")


def text_fields(config: Mapping[str, Any], projection: bool) -> dict[str, Any]:
    """Return the fields of `CLIPText`. projection: whether it has one. ValueError for values that describe no CLIP."""
    return _fields(_of_tower(config, "text"), TEXT, TEXT_DEFAULTS, projection)


def vision_fields(config: Mapping[str, Any], projection: bool) -> dict[str, Any]:
    """Return the fields of `CLIPVision`. projection: whether it has one. ValueError for values that describe no CLIP."""
    fields = _fields(_of_tower(config, "vision"), VISION, VISION_DEFAULTS, projection)
    if fields["image_size"] % fields["patch_size"]:
        raise ValueError(
            f"an image_size of {fields['image_size']} cannot be cut into patches of {fields['patch_size']}; both are in "
            "the configuration."
        )
    return fields


def _fields(
    config: Mapping[str, Any], names: Mapping[str, str], defaults: Mapping[str, Any], projection: bool
) -> dict[str, Any]:
    given = {name: config.get(name, defaults[name]) for name in names}
    for name, value in given.items():
        _check(name, value)
    if given["hidden_size"] % given["num_attention_heads"]:
        raise ValueError(
            f"a hidden_size of {given['hidden_size']} cannot be split into {given['num_attention_heads']} attention heads; "
            "both are in the configuration."
        )
    fields = {field: given[name] for name, field in names.items()}
    return fields if projection else fields | {"projection_width": None}


def _check(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is of the kind of the argument `name`."""
    if name == "hidden_act":
        fits, wanted = value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"
    elif name == "layer_norm_eps":
        fits, wanted = isinstance(value, int | float) and value > 0, "a positive number"
    else:
        fits, wanted = isinstance(value, int) and not isinstance(value, bool) and value > 0, "a positive whole number"
    if not fits:
        raise ValueError(f"{name} of the configuration is {value!r}; it has to be {wanted}.")


def _of_tower(config: Mapping[str, Any], tower: str) -> Mapping[str, Any]:
    """Return the arguments of transformers' tower, of its own configuration, of a whole CLIP's, or of OpenCLIP's."""
    kind = config.get("model_type", "clip")
    if not str(kind).startswith("clip"):
        raise ValueError(f"the configuration is of a {kind}; only CLIP can be loaded.")
    config = config.get("model_cfg", config)
    if f"{tower}_cfg" in config:
        return _of_open_clip(config, tower)
    if not isinstance(own := config.get(f"{tower}_config"), Mapping):
        return config
    both = config.get(
        "projection_dim", COMMON_DEFAULTS["projection_dim"]
    )  # the towers' own do not count in a whole CLIP
    return {**own, "projection_dim": both}


def _of_open_clip(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """Return transformers' arguments for the `tower` of OpenCLIP's configuration, whose texts end at the highest id."""
    own = config[f"{tower}_cfg"]
    if foreign := [name for name in FOREIGN if own.get(name)]:
        raise ValueError(
            f"the configuration has {foreign[0]} {own[foreign[0]]!r}, which no tower of CLIP's own kind has."
        )
    if isinstance(own.get("layers", 12), list | tuple):
        raise ValueError(
            f"the configuration has layers {own['layers']}, which is a ResNet; only transformers are supported."
        )
    text = tower == "text"
    width = own.get("width", 512 if text else 768)
    found = {
        "hidden_size": width,
        "intermediate_size": int(width * own.get("mlp_ratio", 4.0)),
        "num_hidden_layers": own.get("layers", 12),
        "num_attention_heads": own.get("heads", 8) if text else width // own.get("head_width", 64),
        "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "projection_dim": config.get("embed_dim"),
    }
    if text:
        sizes = {"vocab_size": own.get("vocab_size", 49408), "max_position_embeddings": own.get("context_length", 77)}
        return found | sizes | {"eos_token_id": LEGACY_EOS}
    return found | {"image_size": own.get("image_size", 224), "patch_size": own.get("patch_size", 16)}
