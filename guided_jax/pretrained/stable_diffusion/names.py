"""The keys of Stable Diffusion's U-Net in the two layouts of its files.

    diffusers  down_blocks.1.resnets.0.conv1.weight     down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight
    CompVis    input_blocks.4.0.in_layers.2.weight      input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight
    here       input_blocks_4_0 / in_layers_2 / kernel  input_blocks_4_1 / transformer_blocks_0 / attn1 / to_q / kernel

CompVis counts all blocks of one direction through, as ADM does; diffusers counts those of each level anew.
"""

import re
from collections.abc import Callable, Iterable

from guided_jax.pretrained.state_dict import torch_key

PREFIX = "model.diffusion_model."  # of the network in a single file of a whole model
INNER = {"ff_net_0_proj": "ff.net.0.proj", "ff_net_2": "ff.net.2"}  # the same in both layouts
# In CompVis' files both vectors that are added to the embedding of the time have one name; no network has both.
COMPVIS = {**INNER, "class_emb_0": "label_emb.0.0", "class_emb_2": "label_emb.0.2"}
DIFFUSERS = {
    **INNER,
    "input_blocks_0_0": "conv_in",
    "middle_block_0": "mid_block.resnets.0",
    "middle_block_1": "mid_block.attentions.0",
    "middle_block_2": "mid_block.resnets.1",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "class_emb_0": "class_embedding.linear_1",
    "class_emb_2": "class_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
    "op": "conv",
}


def read_layout(keys: Iterable[str], layers_per_block: int) -> tuple[Callable[[list[str]], str], Callable[[str], bool]]:
    """Return path in our tree -> key, and key -> whether to ignore it, for a file of these `keys`.

    In a single file of a whole model all that is not of the network is ignored: other networks, tables of the schedule,
    averages.
    """
    keys = list(keys)
    prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
    if prefix or any(key.startswith("input_blocks.") for key in keys):
        return lambda path: prefix + compvis_key(path), lambda key: not key.startswith(prefix)
    return lambda path: diffusers_key(path, layers_per_block), lambda key: False


def compvis_key(path: list[str]) -> str:
    """["input_blocks_4_1", "transformer_blocks_0", "attn1", "to_q", "kernel"] -> "input_blocks.4.1.transformer_..."."""
    *modules, leaf = path
    return torch_key([*(COMPVIS.get(module, dotted(module)) for module in modules), leaf])


def diffusers_key(path: list[str], layers_per_block: int) -> str:
    """["input_blocks_4_0", "in_layers_2", "kernel"] -> "down_blocks.1.resnets.0.conv1.weight" of 2 `layers_per_block`."""
    *modules, leaf = path
    named = [DIFFUSERS.get(module, dotted(module)) for module in modules]
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)", named[0]):
        named[0] = _block(match[1], int(match[2]), int(match[3]), named[1], layers_per_block)
    return torch_key([*named, leaf])


def dotted(module: str) -> str:
    """ "to_out_0" -> "to_out.0"."""
    return re.sub(r"_(\d+)", r".\1", module)


def _block(way: str, number: int, child: int, inner: str, layers_per_block: int) -> str:
    """Return diffusers' name of a child of a block; inner: the name of the first layer in it."""
    if way == "input":
        level, i = divmod(number - 1, layers_per_block + 1)
        sort = "downsamplers.0" if i == layers_per_block else f"{'attentions' if child else 'resnets'}.{i}"
        return f"down_blocks.{level}.{sort}"
    level, i = divmod(number, layers_per_block + 1)
    sort = "upsamplers.0" if inner == "conv" else f"{'attentions' if child else 'resnets'}.{i}"
    return f"up_blocks.{level}.{sort}"
