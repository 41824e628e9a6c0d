"""The torch keys of CLIP's leaves, in the layouts of transformers and of OpenCLIP."""

import re
from collections.abc import Callable

from guided_jax.pretrained.state_dict import LEAVES, Keys

# Names in `models.clip` -> those of transformers, and of OpenCLIP.
TRANSFORMERS = {
    "token_embedding": "embeddings.token_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "patch_embedding": "embeddings.patch_embedding",
    "layers": "encoder.layers",
    "attention": "self_attn",
    "out": "out_proj",
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "pre_norm": "pre_layrnorm",  # as the files have it
    "post_norm": "post_layernorm",
    "final_norm": "final_layer_norm",
}
OPEN = {
    "position_embedding": "positional_embedding",
    "patch_embedding": "conv1",
    "layers": "transformer.resblocks",
    "attention": "attn",
    "out": "out_proj",
    "norm_1": "ln_1",
    "norm_2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
    "pre_norm": "ln_pre",
    "post_norm": "ln_post",
    "final_norm": "ln_final",
}
# The prefix of a tower, and its projection.
TRANSFORMERS_TOWERS = {
    "text": ("text_model.", "text_projection.weight"),
    "vision": ("vision_model.", "visual_projection.weight"),
}
OPEN_TOWERS = {"text": ("", "text_projection"), "vision": ("visual.", "visual.proj")}
OTHERS = {  # what the file of a whole CLIP holds beside a tower
    "text": ("vision_model.", "visual_projection.", "visual.", "logit_scale"),
    "vision": (
        "text_model.",
        "text_projection",
        "transformer.",
        "token_embedding.",
        "positional_embedding",
        "ln_final.",
        "logit_scale",
    ),
}
# Buffers of old files: the numbers of the positions, the causal mask, and sizes that OpenAI's own files repeat.
BUFFERS = r"(.*\.)?(position_ids|attn_mask|input_resolution|context_length|vocab_size)"


def key_function(keys: list[str], prefix: str, tower: str | None) -> Callable[[list[str]], Keys]:
    """Return path in the tree -> key, for a file of these `keys`.

    prefix: of all keys of CLIP. tower: "text" or "vision", whose tree it is; None for both, named in the path.
    """
    own = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    of_tower: Callable[[str, list[str]], Keys]
    if any(key.startswith(("transformer.resblocks.", "visual.", "token_embedding.")) for key in own):
        of_tower = _open_key
    else:
        prefixed = any(key.startswith(("text_model.", "vision_model.")) for key in own)
        bare = not prefixed and any(key.startswith(("embeddings.", "encoder.")) for key in own)
        of_tower = lambda tower, path: _transformers_key(tower, path, bare)  # noqa: E731

    def key_of(path: list[str]) -> Keys:
        if path == ["logit_scale"]:
            return prefix + path[0]
        found = of_tower(path[0], path[1:]) if tower is None else of_tower(tower, path)
        return prefix + found if isinstance(found, str) else tuple(prefix + each for each in found)

    return key_of


def ignored_keys(prefix: str, tower: str | None) -> Callable[[str], bool]:
    """Return key -> whether a surplus tensor of a file is no mistake; the arguments are those of `key_function`."""

    def ignored(key: str) -> bool:
        own = key.removeprefix(prefix)
        others = () if tower is None else OTHERS[tower]
        return not key.startswith(prefix) or re.fullmatch(BUFFERS, own) is not None or own.startswith(others)

    return ignored


def _transformers_key(tower: str, path: list[str], bare: bool = False) -> Keys:
    """["layers_3", "fc1", "kernel"] -> "text_model.encoder.layers.3.mlp.fc1.weight"; those of q, k and v for "qkv"."""
    prefix, projection = TRANSFORMERS_TOWERS[tower]
    if path[0] == "projection":
        return projection
    key = ("" if bare else prefix) + _join(path, TRANSFORMERS)
    return tuple(key.replace(".qkv.", f".{part}_proj.") for part in "qkv") if ".qkv." in key else key


def _open_key(tower: str, path: list[str]) -> str:
    """["layers_3", "attention", "qkv", "kernel"] -> "transformer.resblocks.3.attn.in_proj_weight"."""
    prefix, projection = OPEN_TOWERS[tower]
    return projection if path[0] == "projection" else prefix + _join(path, OPEN).replace("qkv.", "in_proj_")


def _join(path: list[str], names: dict[str, str]) -> str:
    """Return the path as a key, each part of it by its name in the other layout."""
    parts = [part for name in path for part in name.replace("layers_", "layers.").split(".")]
    return ".".join(names.get(part, LEAVES.get(part, part)) for part in parts)
