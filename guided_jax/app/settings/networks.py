"""The networks: ADM's U-Net and its encoder classifier, the transformer DiT, and the autoencoder of latents."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from guided_jax import models


@dataclasses.dataclass(frozen=True)
class Network:
    """The options that ADM's networks share."""

    model_channels: int = 32
    """Channels of the first level."""
    channel_mult: tuple[int | float, ...] = (1, 2, 2)
    """Channels of each level, as multiples of model_channels."""
    num_res_blocks: int = 1
    """Residual blocks of each level."""
    attention_resolutions: tuple[int, ...] = (2, 4)
    """Downsampling factors of the levels with attention."""
    num_head_channels: int | None = 32
    """Channels of an attention head; None: num_heads heads at every width."""
    num_heads: int = 4
    """Attention heads, where num_head_channels is None."""
    resblock_updown: bool = True
    """Resample within residual blocks, as ADM; else by a convolution."""
    num_groups: int = 8
    """Groups of the group norms."""
    patch: int = 1
    """Side of the squares of pixels that become one pixel of more channels: a quarter of the time for 2."""
    dropout: float = 0.0
    """Dropout rate of the residual blocks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the network's computation. Parameters, norms, optimizer and sampler stay float32."""
    use_scale_shift_norm: bool = True
    """Time and label scale and shift the second norm of a block; else they are added before it."""
    conv_resample: bool = True
    """Without resblock_updown: resample by a convolution; else without parameters."""
    attention_kernel: Literal["plain", "xla", "cudnn"] = "plain"
    """cudnn: flash attention, for NVIDIA GPUs and bfloat16."""
    use_new_attention_order: bool = False
    """The order of q, k and v and of the heads in ADM's 64x64 model."""

    def fields(self) -> dict[str, Any]:
        """Return the options as the Flax modules name them."""
        return {**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class UNet(Network):
    """The network of the diffusion model."""

    memory: int = 0
    """Training pictures, at most, that a network of captions keeps, to look up those of the nearest captions; 0: none."""
    internal_head: str | None = None
    """A block, such as middle_block, on which a second head is trained: the worse model of --guidance internal."""

    def make(
        self, out_channels: int, num_classes: int | None, null_label: bool, dims: int = 2, **others: Any
    ) -> models.UNet:
        """Return the module. num_classes: None for a network without classes. dims, others: as of `models.UNet`."""
        fields = {**self.fields(), "dims": dims, **others}
        return models.UNet(out_channels=out_channels, num_classes=num_classes, null_label=null_label, **fields)


@dataclasses.dataclass(frozen=True)
class Encoder(Network):
    """The network of the noisy classifier: the encoder half of the U-Net and a pool."""

    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"
    """How the last features become logits, as in ADM."""

    def make(self, num_classes: int, dims: int = 2) -> models.Classifier:
        """Return the module. dims: 1 for signals."""
        return models.Classifier(num_classes=num_classes, dims=dims, **self.fields())


@dataclasses.dataclass(frozen=True)
class DiT:
    """The transformer, in place of the U-Net."""

    patch_size: int = 2
    """Side of the squares of pixels that become one position of the sequence."""
    hidden_size: int = 192
    """Numbers of a position; a multiple of 4 and of num_heads."""
    depth: int = 6
    """Blocks."""
    num_heads: int = 6
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width of the inner layer of a block, in units of hidden_size."""
    internal_head: int | None = None
    """The block, counted from 0, after which a second head is trained: the worse model of --guidance internal."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the network's computation. Parameters, norms, optimizer and sampler stay float32."""
    attention_kernel: Literal["plain", "xla", "cudnn"] = "plain"
    """cudnn: flash attention, for NVIDIA GPUs and bfloat16."""

    def make(
        self, shape: tuple[int, ...], in_channels: int, out_channels: int, num_classes: int | None, null_label: bool
    ) -> models.DiT:
        """Return the module for x of this shape (H, W, C), of which it is given `in_channels`."""
        height, width, _ = shape
        return models.DiT(
            input_size=height,
            stretch_positions=height != width,
            in_channels=in_channels,
            out_channels=out_channels,
            num_classes=num_classes,
            null_label=null_label,
            **{**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)},
        )


@dataclasses.dataclass(frozen=True)
class AutoencoderKL:
    """The autoencoder, whose latents the diffusion model works on."""

    block_out_channels: tuple[int, ...] = (32, 64)
    """Channels of each level; every level but the first has half the resolution of the one before."""
    latent_channels: int = 4
    """Channels of a latent."""
    layers_per_block: int = 1
    """Residual blocks of each level of the encoder; the decoder has one more."""
    norm_num_groups: int = 8
    """Groups of the group norms."""
    mid_block_add_attention: bool = True
    """Attention over all positions of the lowest resolution."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the network's computation. Parameters, norms, optimizer and latents stay float32."""

    def make(self, channels: int) -> models.AutoencoderKL:
        """Return the module for pictures of so many channels."""
        fields = {**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)}
        return models.AutoencoderKL(in_channels=channels, out_channels=channels, **fields)

    @property
    def factor(self) -> int:
        """Return how many times smaller a side of a latent is than that of its picture."""
        return 2 ** (len(self.block_out_channels) - 1)
