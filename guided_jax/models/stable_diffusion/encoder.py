"""The way down through Stable Diffusion's U-Net, and its middle, which a ControlNet repeats: functions of the module.

Layers become submodules of the module whose `__call__` calls these; `net` has the fields of `UNet2DConditionModel`.

Sources: [LDM] Rombach et al. 2112.10752; the sizes as conditions and the pooled text: [SDXL] Podell et al. 2307.01952.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.checks import check_index
from guided_jax.models.blocks import Resample, ResBlock, conv3x3, dense, timestep_embedding
from guided_jax.models.encoder import per_example, remat
from guided_jax.models.ops.attention import kernel
from guided_jax.models.perturbation import perturbed_blocks
from guided_jax.models.stable_diffusion.blocks import SpatialTransformer

IGNORED = -10_000.0  # added to the logits of tokens that are masked


def check_inputs(net: Any, x: Array, context: Array) -> None:
    """Raise ValueError for a picture or a text of another width than the network's."""
    if x.shape[-1] != net.in_channels:
        raise ValueError(f"the network takes {net.in_channels} channels and was given {x.shape[-1]}.")
    if jnp.shape(context)[-1:] != (net.cross_attention_dim,):
        raise ValueError(
            f"the network takes texts of width {net.cross_attention_dim} and was given {jnp.shape(context)}: encode "
            "the prompt with the text encoders that it was trained with."
        )


def embed(net: Any, batch: tuple[int, ...], t: Any, pooled: Any, time_ids: Any, label: Any) -> Float[Array, "*batch e"]:
    """Return the embedding of the time, of the class and of what [SDXL] adds, float32."""
    base, width = net.block_out_channels[0], 4 * net.block_out_channels[0]
    emb = mlp(timestep_embedding(per_example(t, batch, "t"), base), width, "time_embed")
    if net.class_embedding is None and label is not None:
        raise ValueError("a network without classes (class_embedding=None) takes no label.")
    if net.class_embedding is not None:
        emb = emb + _embed_class(net, label, batch, width)
    if net.added_features is None and (pooled is not None or time_ids is not None):
        raise ValueError("a network without added conditions (added_features=None) takes no pooled and no time_ids.")
    return emb if net.added_features is None else emb + _embed_added(net, pooled, time_ids, batch, width)


def _embed_class(net: Any, label: Any, batch: tuple[int, ...], width: int) -> Array:
    if label is None:
        raise ValueError(f"the network needs a label, for its class_embedding is {net.class_embedding!r}.")
    if net.class_embedding == "table":
        classes = net.num_classes or 0
        check_index("label", label, classes)
        embed = nn.Embed(classes, width, embedding_init=nn.initializers.normal(1.0), name="label_emb")
        return embed(per_example(label, batch, "label"))
    if net.class_embedding == "timestep":
        features = timestep_embedding(per_example(label, batch, "label"), net.block_out_channels[0])
    elif net.class_embedding == "projection":
        features = rows(label, batch, 1, "label", net.class_features).astype(jnp.float32)
    else:
        raise ValueError(f"class_embedding is {net.class_embedding!r}; it is table, timestep, projection or None.")
    return mlp(features, width, "class_emb")


def _embed_added(net: Any, pooled: Any, time_ids: Any, batch: tuple[int, ...], width: int) -> Array:
    """Return the MLP of [pooled text, the embedding of each size]."""
    if pooled is None or time_ids is None:
        raise ValueError("the network needs pooled, the pooled text, and time_ids, the sizes; give both.")
    pooled, time_ids = rows(pooled, batch, 1, "pooled"), rows(time_ids, batch, 1, "time_ids")
    sizes = timestep_embedding(time_ids, net.size_features).reshape(*batch, -1)
    features = jnp.concatenate([pooled.astype(jnp.float32), sizes], axis=-1)
    if features.shape[-1] != net.added_features:
        raise ValueError(
            f"a pooled text of {pooled.shape[-1]} numbers and {time_ids.shape[-1]} sizes of {net.size_features} make "
            f"{features.shape[-1]}, and the network takes {net.added_features}."
        )
    return mlp(features, width, "label_emb_0")


def encode_text(net: Any, context: Any, mask: Any, batch: tuple[int, ...]) -> tuple[Array, Any]:
    """Return the text with the batch axes, and what is added to the logits of the attention to it, None for nothing."""
    context = rows(context, batch, 2, "context").astype(net.dtype)
    return context, None if mask is None else (1 - rows(mask, batch, 1, "mask")[..., None, None, :]) * IGNORED


def first_layer(net: Any, x: Array) -> Array:
    """Return the first convolution of x, as wide as the first level."""
    return conv3x3(x.astype(net.dtype), net.block_out_channels[0], "input_blocks_0_0", **_options(net))


def encode(net: Any, h: Array, emb: Array, context: Array, bias: Any) -> list[Array]:
    """Return the outputs of all blocks on the way down, h first."""
    skips = [h]
    for level, channels in enumerate(net.block_out_channels):
        for _ in range(net.layers_per_block):
            name = f"input_blocks_{len(skips)}"
            h = residual(net, f"{name}_0", channels)(h, emb)
            if net.attention_levels[level]:
                h = transformer(net, f"{name}_1", level)(h, context, bias)
            skips.append(h)
        if level < len(net.block_out_channels) - 1:
            h = resample(net, f"input_blocks_{len(skips)}_0", "down")(h)
            skips.append(h)
    return skips


def middle(net: Any, h: Array, emb: Array, context: Array, bias: Any) -> Array:
    """Return the output of the blocks at the lowest resolution."""
    channels = net.block_out_channels[-1]
    h = residual(net, "middle_block_0", channels)(h, emb)
    h = transformer(net, "middle_block_1", -1)(h, context, bias)
    return residual(net, "middle_block_2", channels)(h, emb)


def _options(net: Any) -> dict[str, Any]:
    return {"dtype": net.dtype, "plain": net.plain_convolution}


def at(net: Any, field: str, level: int) -> Any:
    """Return a field's value at a level, of all levels, or of each."""
    value = getattr(net, field)
    return value[level] if isinstance(value, Sequence) else value


def residual(net: Any, name: str, channels: int) -> ResBlock:
    """Return a residual block with so many channels."""
    return remat(net, ResBlock)(
        channels,
        use_scale_shift_norm=False,
        num_groups=net.num_groups,
        dtype=net.dtype,
        plain_convolution=net.plain_convolution,
        norm_epsilon=net.norm_epsilon,
        name=name,
    )


def transformer(net: Any, name: str, level: int) -> SpatialTransformer:
    """Return the attention of a level, of the middle for -1."""
    perturb = net.perturb
    if perturb is None or name.rpartition("_")[0] not in perturbed_blocks(net):
        perturb = kernel(net.attention_kernel)
    return SpatialTransformer(
        at(net, "num_heads", level),
        at(net, "transformer_layers", level),
        level >= 0 and at(net, "only_cross_attention", level),
        net.num_groups,
        net.dtype,
        perturb,
        net.remat,
        net.remat_keep,
        name=name,
    )


def resample(net: Any, name: str, direction: Any) -> Resample:
    """Return the layer between two levels, "down" or "up"."""
    return Resample(direction, True, net.dtype, net.plain_convolution, name=name)


def mlp(x: Float[Array, "*batch n"], width: int, name: str) -> Float[Array, "*batch {width}"]:
    """W silu(W x), float32, two submodules of the calling module."""
    return dense(nn.silu(dense(x, width, f"{name}_0")), width, f"{name}_2")


def rows(value: Any, batch: tuple[int, ...], ndim: int, name: str, last: int | None = None) -> Array:
    """Return `value`, `ndim` axes for each example or for all, with the batch axes; ValueError for any other shape.

    last: what the last axis has to be, None for any.
    """
    shape = jnp.shape(value)
    size = shape[len(shape) - ndim :]
    if len(size) != ndim or shape[: len(shape) - ndim] not in ((), batch) or (last is not None and size[-1] != last):
        wanted = f"{ndim} axes" if last is None else f"{last} numbers"
        raise ValueError(f"{name} has shape {shape}; it has {wanted} for all examples, or for each of {batch}.")
    return jnp.broadcast_to(jnp.asarray(value), (*batch, *size))
