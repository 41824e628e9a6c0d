"""The part that the U-Net and the classifier share: embedding of time, blocks downwards, middle.

The functions here are called inside a module's `__call__` and make their blocks submodules of it; `net` is that
module, read for its fields. The names of the blocks are those of ADM's published weights with "." written "_".
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, Num

from guided_jax.models.blocks import (
    AttentionBlock,
    Direction,
    Resample,
    ResBlock,
    along,
    conv3x3,
    dense,
    timestep_embedding,
)
from guided_jax.models.ops.attention import kernel
from guided_jax.models.sizes import check_image_size
from guided_jax.models.text import Text, TextAttention

Keys = Key[Array, "*batch"] | None


def check_dims(dims: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError for dims other than 2 and 1, and for signals, dims 1, that are wider than 1."""
    if dims not in (1, 2) or (dims == 1 and shape[-2] != 1):
        raise ValueError(
            f"dims is {dims} and x ends in {tuple(shape[-3:])}; give dims=2 for (height, width, channels), and dims=1 for "
            "signals, (length, 1, channels)."
        )


def to_patches(x: Float[Array, "*batch h w c"], side: int, dims: int = 2) -> Float[Array, "*batch h2 w2 c2"]:
    """Turn each square of side x side pixels into one pixel of side^2 as many channels; ValueError if they do not fit.

    dims: 2, or 1 for signals, whose `side` samples in a row become one.
    """
    *batch, h, w, c = x.shape
    rows, columns = along(side, dims)
    if side < 1 or h % rows or w % columns:
        raise ValueError(f"an image of {h}x{w} cannot be cut into squares of {rows}x{columns}; give another patch.")
    x = x.reshape(*batch, h // rows, rows, w // columns, columns, c)
    return jnp.moveaxis(x, -4, -3).reshape(*batch, h // rows, w // columns, rows * columns * c)


def from_patches(x: Float[Array, "*batch h2 w2 c2"], side: int, dims: int = 2) -> Float[Array, "*batch h w c"]:
    """The inverse of `to_patches`."""
    *batch, h, w, c = x.shape
    rows, columns = along(side, dims)
    x = jnp.moveaxis(x.reshape(*batch, h, w, rows, columns, c // (rows * columns)), -4, -3)
    return x.reshape(*batch, h * rows, w * columns, c // (rows * columns))


def per_example(value: Any, batch: tuple[int, ...], name: str) -> Array:
    """Return `value` with the shape of the batch axes; a scalar is repeated. ValueError for any other shape."""
    if jnp.shape(value) not in ((), batch):
        raise ValueError(f"{name} of shape {jnp.shape(value)} is neither a scalar nor one value for each of {batch}.")
    return jnp.broadcast_to(jnp.asarray(value), batch)


def embed_time(net: Any, t: Num[Array, "*batch"]) -> Float[Array, "*batch e"]:
    """emb = W silu(W [cos, sin](t)), four times as wide as `model_channels`, float32."""
    width = 4 * net.model_channels
    hidden = nn.silu(dense(timestep_embedding(t, net.model_channels), width, "time_embed_0"))
    return dense(hidden, width, "time_embed_2")


def remat(net: Any, block: Any) -> Any:
    """Return the block, or, with `net.remat`, one that recomputes its inside for the gradient, except `remat_keep`."""
    if not net.remat:
        return block
    keep = {"nothing": None, "products": _is_product}
    if net.remat_keep not in keep:
        raise ValueError(f"remat_keep is one of {', '.join(keep)}, not {net.remat_keep!r}.")
    return nn.remat(block, policy=keep[net.remat_keep])


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    """Return whether it is a convolution or matrix product, which take the time; norms and activations take the memory."""
    # `ops.convolution` is a custom_vjp and appears as that primitive.
    return primitive.name in ("conv_general_dilated", "dot_general", "custom_vjp_call")


def residual(net: Any, name: str, channels: int, resample: Direction | None = None) -> ResBlock:
    """Return a ResBlock with the settings of `net`."""
    return remat(net, ResBlock)(
        channels,
        dropout=net.dropout,
        use_scale_shift_norm=net.use_scale_shift_norm,
        resample=resample,
        num_groups=net.num_groups,
        dtype=net.dtype,
        plain_convolution=net.plain_convolution,
        dims=net.dims,
        name=name,
    )


def resampler(net: Any, name: str, channels: int, direction: Direction) -> ResBlock | Resample:
    """Return a block that doubles or halves the size: a ResBlock if `net.resblock_updown`, else a bare Resample."""
    if net.resblock_updown:
        return residual(net, name, channels, direction)
    return Resample(direction, net.conv_resample, net.dtype, net.plain_convolution, net.dims, name=name)


def attention(net: Any, name: str, channels: int, num_heads: int) -> AttentionBlock:
    """Return an AttentionBlock with the settings of `net`; `num_head_channels`, when set, determines the number of heads.

    A net without the field `perturb`, the classifier, has plain attention.
    """
    perturbed = name.rpartition("_")[0] in getattr(net, "perturb_blocks", ())
    num_heads = _heads_of(net, channels, num_heads)
    perturb = net.perturb if perturbed and net.perturb is not None else kernel(net.attention_kernel)
    return remat(net, AttentionBlock)(
        num_heads, net.use_new_attention_order, net.num_groups, net.dtype, perturb, name=name
    )


def attend_both(net: Any, name: str, channels: int, num_heads: int, h: Array, text: Text | None) -> Array:
    """Apply the attention to the picture, `name`_1, and then that to the text, if there is one, `name`_text."""
    h = attention(net, f"{name}_1", channels, num_heads)(h)
    if text is None:
        return h
    num_heads = _heads_of(net, channels, num_heads)
    return remat(net, TextAttention)(num_heads, net.num_groups, net.dtype, name=f"{name}_text")(h, text)


def _heads_of(net: Any, channels: int, num_heads: int) -> int:
    """Return the number of heads that `net.num_head_channels` asks for, `num_heads` where that is None."""
    return num_heads if net.num_head_channels is None else head_count(channels, net.num_head_channels)


def head_count(channels: int, num_head_channels: int) -> int:
    """channels / num_head_channels; ValueError when it is not whole."""
    if channels % num_head_channels:
        raise ValueError(f"{channels} channels cannot be split into heads of {num_head_channels} channels.")
    return channels // num_head_channels


def widths(net: Any) -> list[int]:
    """Return the channels of each level, int(mult * model_channels)."""
    return [int(mult * net.model_channels) for mult in net.channel_mult]


def encode(
    net: Any, x: Float[Array, "*batch h w c"], emb: Float[Array, "*batch e"], keys: Keys, text: Text | None = None
) -> list[Float[Array, "..."]]:
    """Return the outputs of all blocks on the way down, with that of the first convolution; the last is the deepest."""
    check_dims(net.dims, x.shape)
    x = to_patches(x, net.patch, net.dims)
    check_image_size(x.shape[-3:-1][: net.dims], net.channel_mult)
    options: dict[str, Any] = {"dtype": net.dtype, "plain": net.plain_convolution, "dims": net.dims}
    h = conv3x3(x.astype(net.dtype), widths(net)[0], "input_blocks_0_0", **options)
    outputs = [h]
    for level, channels in enumerate(widths(net)):
        for _ in range(net.num_res_blocks):
            name = f"input_blocks_{len(outputs)}"
            h = residual(net, f"{name}_0", channels)(h, emb, keys)
            if 2**level in net.attention_resolutions:
                h = attend_both(net, name, channels, net.num_heads, h, text)
            outputs.append(h)
        if level < len(net.channel_mult) - 1:
            h = resampler(net, f"input_blocks_{len(outputs)}_0", channels, "down")(h, emb, keys)
            outputs.append(h)
    return outputs


def middle(
    net: Any, h: Float[Array, "*batch h w c"], emb: Float[Array, "*batch e"], keys: Keys, text: Text | None = None
) -> Float[Array, "*batch h w c"]:
    """Apply ResBlock, attention and ResBlock at the lowest resolution."""
    channels = h.shape[-1]
    h = residual(net, "middle_block_0", channels)(h, emb, keys)
    h = attend_both(net, "middle_block", channels, net.num_heads, h, text)
    return residual(net, "middle_block_2", channels)(h, emb, keys)
