"""The building blocks of the ADM networks, for images `(*batch, height, width, channels)`, or with `dims=1` for signals
`(*batch, length, 1, channels)`, along their length.

Source: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis" [ADM], section 3 and appendix; layer
names and initial values follow its published torch weights, so that importing those is only a renaming.

Every block takes any number of leading batch axes, none included. Normalisation and softmax are computed in float32
whatever the compute dtype; parameters are always float32.
"""

import math
import zlib
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from guided_jax.models.ops import convolution
from guided_jax.models.ops.norm import along_last, group_norm

Direction = Literal["up", "down"]

# torch's default for convolutions and linear layers: uniform within +-1 / sqrt(fan_in), biases too.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Any:
    """b ~ U(-1, 1) / sqrt(fan_in): torch's initial bias, as a Flax initializer."""
    limit = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def timestep_embedding(
    t: Num[Array, "*batch"], dim: int, max_period: float | int = 10_000, shift: int = 0
) -> Float[Array, "*batch {dim}"]:
    """[cos(t f), sin(t f)] with f_i = max_period^(-i / (half - shift)), half = dim // 2; an odd `dim` ends in a zero.

    t: steps of the network's own time, fractional allowed. Always float32. Source: [ADM] with the cosines first.
    """
    half = dim // 2
    frequencies = np.exp(-math.log(max_period) * np.arange(half) / (half - shift)).astype(np.float32)
    angles = jnp.asarray(t, jnp.float32)[..., None] * frequencies.reshape((1,) * jnp.ndim(t) + (half,))
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, [(0, 0)] * jnp.ndim(t) + [(0, dim % 2)])


def dense(x: Float[Array, "..."], features: int, name: str, dtype: Any = jnp.float32, zero: bool = False) -> Array:
    """y = x W + b, a submodule of the calling module; also a 1x1 convolution, and faster than one on CPU."""
    kernel_init, bias_init = (nn.initializers.zeros,) * 2 if zero else (torch_uniform, torch_bias(x.shape[-1]))
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)(x)


def along(number: int, dims: int, other: int = 1) -> tuple[int, int]:
    """Return (number, number) for pictures, dims 2, and (number, other) for signals, dims 1, whose width is 1."""
    return number, number if dims == 2 else other


class Conv3x3(nn.Module):
    """y = x * k + b, 3x3, one row of zeros on every side (torch pads a stride of 2 on both sides too, "SAME" does not).

    dims: 2, or 1 for signals, whose kernel is 3x1. pads: the rows of zeros before and after each axis. use_bias: whether
    there is b.
    A collection "winograd" may hold the transformed kernel for the fast convolution on CPU; see `models.prepare_params`.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    zero: bool = False
    plain: bool = False
    dims: int = 2
    pads: tuple[int, int] = (1, 1)
    use_bias: bool = True

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return along(3, self.dims)

    @property
    def steps(self) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
        """The strides, and the rows of zeros on every side."""
        return along(self.stride, self.dims), (self.pads, self.pads if self.dims == 2 else (0, 0))

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 {self.features}"]:
        """Return the output in the layer's dtype."""
        *batch, h, w, c = x.shape
        fan_in = math.prod(self.window) * c
        kernel_init, bias_init = (nn.initializers.zeros,) * 2 if self.zero else (torch_uniform, torch_bias(fan_in))
        kernel = self.param("kernel", kernel_init, (*self.window, c, self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        arguments = (x.reshape(-1, h, w, c), kernel, *self.steps)
        if self.plain:
            y = jax.lax.conv_general_dilated(*arguments, dimension_numbers=convolution.LAYOUT)
        else:
            y = convolution.conv_general_dilated(*arguments, transformed=self.get_variable("winograd", "kernel"))
        y = y.reshape(*batch, *y.shape[1:])
        if not self.use_bias:
            return y
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        return y + along_last(bias.astype(self.dtype), y.ndim)

    def suits_winograd(self, shape: tuple[int, ...]) -> bool:
        """Return whether `winograd` can compute the convolution of an input of this shape."""
        both = (1, *shape[-3:]), (*self.window, shape[-1], self.features)
        x, kernel = (jax.ShapeDtypeStruct(each, self.dtype) for each in both)
        return not self.plain and convolution.suits(x, kernel, *self.steps)


def conv3x3(x: Float[Array, "..."], features: int, name: str, **options: Any) -> Array:
    """Apply a `Conv3x3`, a submodule of the calling module."""
    return Conv3x3(features, name=name, **options)(x)


def upsample(x: Float[Array, "*batch h w c"], dims: int = 2) -> Float[Array, "*batch h2 w2 c"]:
    """y[i, j] = x[i // 2, j // 2]: every pixel becomes 2x2; y[i] = x[i // 2] of signals, dims 1."""
    *batch, h, w, c = x.shape
    rows, columns = along(2, dims)
    # A broadcast, not a repeat: the gradient of a repeat is a scatter.
    each = jnp.broadcast_to(x[..., :, None, :, None, :], (*batch, h, rows, w, columns, c))
    return each.reshape(*batch, rows * h, columns * w, c)


def downsample(x: Float[Array, "*batch h w c"], dims: int = 2) -> Float[Array, "*batch h2 w2 c"]:
    """y[i, j] = mean of the 2x2 pixels, of signals, dims 1, of 2; the last row or column of an odd size is dropped."""
    *batch, h, w, c = x.shape
    rows, columns = along(2, dims)
    even = x[..., : h // rows * rows, : w // columns * columns, :]
    return even.reshape(*batch, h // rows, rows, w // columns, columns, c).mean(axis=(-4, -2))


def resize_bilinear(x: Float[Array, "*batch h w c"], size: tuple[int, int]) -> Float[Array, "*batch h2 w2 c"]:
    """Bilinear with half-pixel centres and without antialiasing, to `size` = (height, width) in pixels."""
    return jax.image.resize(x, (*x.shape[:-3], *size, x.shape[-1]), "linear", antialias=False)


def dropout(
    x: Float[Array, "*batch h w c"], rate: float, keys: Key[Array, "*batch"] | None, site: int
) -> Float[Array, "*batch h w c"]:
    """y = x m / (1 - rate), m ~ Bernoulli(1 - rate); x itself without `keys`.

    keys: one PRNG key per example, so that a mask depends on the example and never on its place in the batch or its
    device. site: an integer that makes the masks of one network differ.
    """
    if keys is None or rate == 0:
        return x

    def mask(key):
        return jax.random.bernoulli(jax.random.fold_in(key, site), 1 - rate, x.shape[-3:])

    for _ in range(keys.ndim):
        mask = jax.vmap(mask)
    return jnp.where(mask(keys), x / (1 - rate), jnp.zeros((), x.dtype))


def split_heads(qkv: Float[Array, "*batch length c3"], num_heads: int, new_order: bool) -> tuple[Array, Array, Array]:
    """q, k, v, each (*batch, length, heads, ch).

    The channels of `qkv` are ordered (head, part, ch), or (part, head, ch) in ADM's "new" order; part = q, k, v.
    """
    ch = qkv.shape[-1] // (3 * num_heads)
    split = (3, num_heads, ch) if new_order else (num_heads, 3, ch)
    q, k, v = jnp.moveaxis(qkv.reshape(*qkv.shape[:-1], *split), -3 if new_order else -2, 0)
    return q, k, v


def attention_weights(
    q: Float[Array, "*batch length heads ch"], k: Float[Array, "*batch length heads ch"]
) -> Float[Array, "*batch heads length length"]:
    """softmax_s(q_t . k_s / sqrt(ch)), float32; q and k each scaled by ch^(-1/4), which keeps half precision in range."""
    weights = _unnormalised(_logits(q, k))
    return weights * (1 / weights.sum(-1, keepdims=True))  # not a division: see `numerics.ratio`


def attend(
    q: Float[Array, "*batch length heads ch"],
    k: Float[Array, "*batch keys heads ch"],
    v: Float[Array, "*batch keys heads ch"],
    bias: Any = None,
) -> Float[Array, "*batch length heads ch"]:
    """a_t = sum_s weights_ts v_s for every head.

    bias: added to the logits, float32, (..., heads or 1, length or 1, keys): of a mask, or of the distance.

    The sum is divided by the sum of the weights afterwards, and in every product the heads come before the positions: on
    CPU the products in the order of the arguments, with the weights divided first, take five times as long. On a GPU,
    where the whole softmax is one kernel, the weights are divided first: the sum afterwards would be another kernel.
    """
    logits = _logits(q, k, bias)
    if jax.default_backend() == "gpu":
        return jnp.einsum("...hts,...shc->...thc", jax.nn.softmax(logits).astype(v.dtype), v)
    weights = _unnormalised(logits)
    total = jnp.matmul(weights.astype(v.dtype), jnp.moveaxis(v, -2, -3), preferred_element_type=jnp.float32)
    return jnp.moveaxis(total * (1 / weights.sum(-1, keepdims=True)), -3, -2).astype(v.dtype)


def _logits(q: Array, k: Array, bias: Any = None) -> Array:
    """q_t . k_s / sqrt(ch) + bias, (*batch, heads, length, keys), float32."""
    scale = q.shape[-1] ** -0.25
    q, k = (jnp.moveaxis(each * scale, -2, -3) for each in (q, k))
    logits = jnp.matmul(q, jnp.swapaxes(k, -1, -2)).astype(jnp.float32)
    return logits if bias is None else logits + bias.reshape((1,) * (logits.ndim - bias.ndim) + bias.shape)


def _unnormalised(logits: Array) -> Array:
    """exp(logits - max of the logits)."""
    return jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))


def multi_head_attention(
    qkv: Float[Array, "*batch length c3"], num_heads: int, new_order: bool
) -> Float[Array, "*batch length c"]:
    """Return `attend` of the heads of qkv, concatenated along the channels."""
    return attend(*split_heads(qkv, num_heads, new_order)).reshape(*qkv.shape[:-1], -1)


class Resample(nn.Module):
    """Twice or half the size: nearest x2 or 2x2 mean, with a 3x3 convolution (of stride 2 downwards) if `use_conv`."""

    direction: Direction
    use_conv: bool = True
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    dims: int = 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], emb: Any = None, keys: Any = None, size: tuple[int, int] | None = None
    ) -> Float[Array, "*batch h2 w2 c"]:
        """Return x resampled; `emb` and `keys` are ignored, so that it is called like a ResBlock.

        size: height and width, what is beyond them is cut off before the convolution: of an odd size that was halved.
        """
        options: dict[str, Any] = {"dtype": self.dtype, "plain": self.plain_convolution, "dims": self.dims}
        if self.direction == "up":
            x = upsample(x, self.dims)
            x = x if size is None else x[..., : size[0], : size[1], :]
            return conv3x3(x, x.shape[-1], "conv", **options) if self.use_conv else x
        return conv3x3(x, x.shape[-1], "op", stride=2, **options) if self.use_conv else downsample(x, self.dims)


class ResBlock(nn.Module):
    """y = skip(x) + conv(dropout(silu(norm(conv(silu(norm(x)))) with the embedding))); the last convolution starts at 0."""

    out_channels: int
    dropout: float | int = 0.0
    use_scale_shift_norm: bool = True
    resample: Direction | None = None
    num_groups: int = 32
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    dims: int = 2
    norm_epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], emb: Float[Array, "*batch e"], keys: Key[Array, "*batch"] | None = None
    ) -> Float[Array, "*batch h2 w2 c2"]:
        """emb: the embedding of time and label, float32. keys: one per example, turns dropout on."""
        options: dict[str, Any] = {"dtype": self.dtype, "plain": self.plain_convolution, "dims": self.dims}
        h = nn.silu(group_norm(x, self.num_groups, "in_layers_0", epsilon=self.norm_epsilon))
        if self.resample:
            resize = upsample if self.resample == "up" else downsample
            h, x = resize(h, self.dims), resize(x, self.dims)
        h = conv3x3(h, self.out_channels, "in_layers_2", **options)
        h = nn.silu(self._modulate(h, emb))
        h = dropout(h, self.dropout, keys, zlib.crc32(str(self.name).encode()))
        h = conv3x3(h, self.out_channels, "out_layers_3", zero=True, **options)
        if x.shape[-1] != self.out_channels:
            x = dense(x, self.out_channels, "skip_connection", self.dtype)
        return x + h

    def _modulate(self, h: Array, emb: Array) -> Array:
        """norm(h) (1 + scale) + shift, or norm(h + shift)."""
        width = 2 * self.out_channels if self.use_scale_shift_norm else self.out_channels
        e = dense(nn.silu(emb), width, "emb_layers_1").astype(h.dtype)[..., None, None, :]
        if not self.use_scale_shift_norm:
            return group_norm(h + e, self.num_groups, "out_layers_0", epsilon=self.norm_epsilon)
        scale, shift = jnp.split(e, 2, axis=-1)
        return group_norm(h, self.num_groups, "out_layers_0", epsilon=self.norm_epsilon) * (1 + scale) + shift


class AttentionBlock(nn.Module):
    """y = x + proj(attention(qkv(norm(x)))) over all positions; `proj_out` starts at 0.

    perturb: (q, k, v, (height, width)) -> attended, instead of the softmax attention; see `models.perturbation`. The
    parameters are the same. A mutable collection "attention" receives "mass", (*batch, h, w): the attention to a position
    summed over all positions, mean over the heads.
    """

    num_heads: int
    new_order: bool = False
    num_groups: int = 32
    dtype: Any = jnp.float32
    perturb: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """ValueError when the heads do not divide the channels."""
        *batch, h, w, c = x.shape
        if c % self.num_heads:
            raise ValueError(f"{c} channels cannot be split into {self.num_heads} attention heads.")
        tokens = group_norm(x, self.num_groups, "norm").reshape(*batch, h * w, c)
        q, k, v = split_heads(dense(tokens, 3 * c, "qkv", self.dtype), self.num_heads, self.new_order)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "mass", attention_weights(q, k).mean(-3).sum(-2).reshape(*batch, h, w))
        attended = attend(q, k, v) if self.perturb is None else self.perturb(q, k, v, (h, w))
        attended = attended.reshape(tokens.shape)
        return x + dense(attended, c, "proj_out", self.dtype, zero=True).reshape(x.shape)
