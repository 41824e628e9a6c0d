"""The autoencoder of latent diffusion, AutoencoderKL: a picture to the mean and variance of its latent, and back.

Source: [LDM] Rombach et al. 2112.10752, section 3.1 and appendix; the names of the layers are those of the weights
published in diffusers' format, with "_" for ".".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.models.blocks import attend, conv3x3, dense, torch_bias, torch_uniform, upsample
from guided_jax.models.ops.norm import group_norm
from guided_jax.models.sizes import check_halves

EPSILON = 1e-6  # of every norm here, where the U-Nets have 1e-5
LOG_VARIANCE = (-30.0, 20.0)  # its range
# The most attention weights that one picture may hold at once, 64 MiB in float32: those of 64x64 positions.
MOST_WEIGHTS = 2**24


class AutoencoderKL(nn.Module):
    """mean, log_variance = net.apply(params, image, method="encode"); image = net.apply(params, z, method="decode").

    in_channels, out_channels: of the pictures, which are in [-1, 1] by convention. latent_channels: of z.
    block_out_channels: channels of each level; every level but the first has half the resolution of the one before.
    layers_per_block: residual blocks of a level of the encoder; the decoder has one more.
    norm_num_groups: of every group norm; it has to divide every width.
    use_quant_conv, use_post_quant_conv: a 1x1 convolution after the encoder, and one before the decoder.
    mid_block_add_attention: attention over all positions of the lowest resolution, in both.
    dtype: of the computation; norms, softmax and the outputs are float32.
    plain_convolution: XLA's own convolution, which allows forward-mode derivatives (see `models.ops.convolution`).
    remat: recompute the inside of each block for its gradient, instead of keeping it: less memory, more time.

    A latent diffusion model works on x = (z - shift) * scale, two constants of each model, which are not applied here.
    See `models.tiles` for pictures that are too large to decode at once.

    >>> import jax
    >>> net = AutoencoderKL(block_out_channels=(32, 64, 64))
    >>> image = jnp.zeros((8, 64, 48, 3))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), image)  # shapes alone; `net.init` for the arrays
    >>> mean, log_variance = jax.eval_shape(lambda p, x: net.apply(p, x, method="encode"), params, image)
    >>> mean.shape, log_variance.shape
    ((8, 16, 12, 4), (8, 16, 12, 4))
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: Sequence[int] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    remat: bool = False

    def setup(self) -> None:
        """Make the submodules."""
        check_groups(self.block_out_channels, self.norm_num_groups)
        settings = Settings(
            tuple(self.block_out_channels),
            self.layers_per_block,
            self.norm_num_groups,
            self.mid_block_add_attention,
            self.dtype,
            self.plain_convolution,
            self.remat,
        )
        self.encoder = Encoder(2 * self.latent_channels, settings)
        self.decoder = Decoder(self.out_channels, settings)
        if self.use_quant_conv:
            self.quant_conv = mix(2 * self.latent_channels)
        if self.use_post_quant_conv:
            self.post_quant_conv = mix(self.latent_channels)

    def __call__(self, image: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w {self.out_channels}"]:
        """decode(mean of z given the image)."""
        return self.decode(self.encode(image)[0])

    def encode(
        self, image: Float[Array, "*batch h w c"]
    ) -> tuple[
        Float[Array, "*batch h2 w2 {self.latent_channels}"], Float[Array, "*batch h2 w2 {self.latent_channels}"]
    ]:
        """Return the mean and the log variance of z given `image`, the log variance clipped to [-30, 20]; float32."""
        mean, log_variance = jnp.split(self.moments(image), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def moments(self, image: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c2"]:
        """Return the mean and the log variance before it is clipped, one after the other along the channels; float32.

        image: any number of batch axes, none included. ValueError for a size that cannot be halved once for each level
        but one, and for other channels than `in_channels`.
        """
        check_channels("an image", image, self.in_channels)
        check_halves(image.shape[-3:-1], len(self.block_out_channels) - 1)
        moments = self.encoder(image).astype(jnp.float32)
        return self.quant_conv(moments) if self.use_quant_conv else moments

    def decode(self, z: Float[Array, "*batch h2 w2 c"]) -> Float[Array, "*batch h w {self.out_channels}"]:
        """Return the picture of `z`, float32 and not clipped. ValueError for other channels than `latent_channels`."""
        check_channels("a latent", z, self.latent_channels)
        return self.decoder(self.post_quant_conv(z) if self.use_post_quant_conv else z).astype(jnp.float32)


class Settings(NamedTuple):
    """The fields of `AutoencoderKL` that its encoder and its decoder share, under the same names."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    mid_block_add_attention: bool
    dtype: Any
    plain_convolution: bool
    remat: bool


class Encoder(nn.Module):
    """Residual blocks, and half the size after every level but the last; then the middle."""

    features: int
    settings: Settings

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 {self.features}"]:
        """Return the output in the computation's dtype."""
        widths, depth = self.settings.block_out_channels, self.settings.layers_per_block
        h = convolve(self.settings, x, widths[0], "conv_in")
        for level, channels in enumerate(widths):
            for i in range(depth):
                h = residual(self.settings, f"down_blocks_{level}_resnets_{i}", channels)(h)
            if level < len(widths) - 1:
                # Zeros only below and to the right: so the published weights were trained.
                name = f"down_blocks_{level}_downsamplers_0_conv"
                h = convolve(self.settings, h, channels, name, stride=2, pads=(0, 1))
        return finish(self.settings, middle(self.settings, h), self.features)


class Decoder(nn.Module):
    """The middle; then one residual block more for each level, and twice the size after every level but the last."""

    features: int
    settings: Settings

    @nn.compact
    def __call__(self, z: Float[Array, "*batch h2 w2 c"]) -> Float[Array, "*batch h w {self.features}"]:
        """Return the output in the computation's dtype."""
        widths, depth = self.settings.block_out_channels[::-1], self.settings.layers_per_block
        h = middle(self.settings, convolve(self.settings, z, widths[0], "conv_in"))
        for level, channels in enumerate(widths):
            for i in range(depth + 1):
                h = residual(self.settings, f"up_blocks_{level}_resnets_{i}", channels)(h)
            if level < len(widths) - 1:
                h = convolve(self.settings, upsample(h), channels, f"up_blocks_{level}_upsamplers_0_conv")
        return finish(self.settings, h, self.features)


def convolve(settings: Settings, x: Float[Array, "*batch h w c"], features: int, name: str, **more: Any) -> Array:
    """Apply a 3x3 convolution in the computation's dtype, a submodule of the calling module."""
    return conv3x3(x, features, name, dtype=settings.dtype, plain=settings.plain_convolution, **more)


def residual(settings: Settings, name: str, channels: int) -> nn.Module:
    """Return a residual block with these settings."""
    block = nn.remat(ResNet) if settings.remat else ResNet
    return block(channels, settings.norm_num_groups, settings.dtype, settings.plain_convolution, name=name)


def middle(settings: Settings, h: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
    """Apply a residual block, attention unless left out, and a residual block at the lowest resolution."""
    channels = h.shape[-1]
    h = residual(settings, "mid_block_resnets_0", channels)(h)
    if settings.mid_block_add_attention:
        block = nn.remat(Attention) if settings.remat else Attention
        h = block(settings.norm_num_groups, settings.dtype, name="mid_block_attentions_0")(h)
    return residual(settings, "mid_block_resnets_1", channels)(h)


def finish(settings: Settings, h: Float[Array, "*batch h w c"], features: int) -> Float[Array, "*batch h w {features}"]:
    """Apply the last norm and convolution."""
    h = nn.silu(group_norm(h, settings.norm_num_groups, "conv_norm_out", epsilon=EPSILON))
    return convolve(settings, h, features, "conv_out")


def mix(features: int) -> nn.Dense:
    """Return y = x W + b along `features` channels, a 1x1 convolution of as many to as many, in float32."""
    return nn.Dense(features, dtype=jnp.float32, kernel_init=torch_uniform, bias_init=torch_bias(features))


class ResNet(nn.Module):
    """y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))); a 1x1 convolution is the shortcut between widths."""

    features: int
    num_groups: int
    dtype: Any = jnp.float32
    plain_convolution: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w {self.features}"]:
        """Return the output in the dtype of x."""
        h = x
        for i in (1, 2):
            h = nn.silu(group_norm(h, self.num_groups, f"norm{i}", epsilon=EPSILON))
            h = conv3x3(h, self.features, f"conv{i}", dtype=self.dtype, plain=self.plain_convolution)
        if x.shape[-1] != self.features:
            x = dense(x, self.features, "conv_shortcut", self.dtype)
        return x + h


class Attention(nn.Module):
    """y = x + W_o attention(norm(x)) over all positions, with one head as wide as x."""

    num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """Return the output in the dtype of x."""
        *batch, h, w, c = x.shape
        tokens = group_norm(x, self.num_groups, "group_norm", epsilon=EPSILON).reshape(*batch, h * w, c)
        q, k, v = (dense(tokens, c, f"to_{each}", self.dtype)[..., None, :] for each in "qkv")
        attended = attend_in_parts(q, k, v)[..., 0, :]
        return x + dense(attended, c, "to_out_0", self.dtype).reshape(x.shape)


def attend_in_parts(
    q: Float[Array, "*batch length heads ch"],
    k: Float[Array, "*batch length heads ch"],
    v: Float[Array, "*batch length heads ch"],
    most: int = MOST_WEIGHTS,
) -> Float[Array, "*batch length heads ch"]:
    """`blocks.attend`, for a part of the queries after another where a picture has more than `most` attention weights.

    The same numbers, for a softmax is over the keys alone; the gradient computes the weights of each part again.
    """
    length, heads = q.shape[-3:-1]
    count = -(-length // max(1, most // (length * heads)))  # of parts
    if count == 1:
        return attend(q, k, v)
    size = -(-length // count)
    rest = count * size - length  # queries of zeros, whose results are dropped
    padded = jnp.pad(q, [(0, 0)] * (q.ndim - 3) + [(0, rest), (0, 0), (0, 0)])
    parts = jnp.moveaxis(padded.reshape(*q.shape[:-3], count, size, *q.shape[-2:]), -4, 0)
    attended = jax.lax.map(jax.checkpoint(lambda part: attend(part, k, v)), parts)
    return jnp.moveaxis(attended, 0, -4).reshape(padded.shape)[..., :length, :, :]


def check_channels(what: str, x: Float[Array, "..."], channels: int) -> None:
    """Raise ValueError unless x, called `what` in the message, ends in (height, width, `channels`)."""
    if x.ndim < 3 or x.shape[-1] != channels:
        raise ValueError(f"{what} has the shape (..., height, width, {channels}) here, and this one has {x.shape}.")


def check_groups(block_out_channels: Sequence[int], norm_num_groups: int) -> None:
    """Raise ValueError unless `norm_num_groups` divides each of `block_out_channels`."""
    for channels in block_out_channels:
        if channels % norm_num_groups:
            raise ValueError(
                f"{channels} of block_out_channels cannot be split into {norm_num_groups} norm groups: choose widths that "
                "norm_num_groups divides."
            )
