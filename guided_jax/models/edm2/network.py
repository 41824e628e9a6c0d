"""The U-Net of EDM2: a noisy picture or latent and its noise in, the raw output of EDM's preconditioning out.

Source: [EDM2] Karras et al. 2312.02696. The reference divides each weight by its magnitude wherever it uses it; the
parameters here are the weights that result, with all gains, made by `pretrained.edm2` before the first step. Names of
modules are those of the published weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from guided_jax.checks import check_index
from guided_jax.models.blocks import Direction, conv3x3
from guided_jax.models.edm2.blocks import Block, Fourier, LabelRows, linear, mp_cat, mp_silu, mp_sum, unit_normal
from guided_jax.models.encoder import per_example, remat
from guided_jax.models.ops.attention import kernel
from guided_jax.models.perturbation import check_perturbed, perturbed_blocks
from guided_jax.models.sizes import check_image_size


class Place(NamedTuple):
    """A block of the network: its name, its settings, and whether the output of an encoder block joins its input."""

    name: str
    channels: int
    resample: Direction | None
    attends: bool
    joined: bool = False


class EDM2(nn.Module):
    """F = edm2.apply(params, x, c_noise, label); log variance = edm2.apply(params, c_noise, method="log_variance").

    F stands inside EDM's preconditioning: `denoiser.edm(lambda x, c_noise: edm2.apply(params, x, c_noise, label))`.

    img_resolution: side of the pictures that it was made for, which the blocks are named after; others are taken too.
    label_dim: number of classes, 0 for a network without.
    model_channels: base width; level l has channel_mult[l] * model_channels channels and 2^-l of the resolution.
    channel_mult_noise, channel_mult_emb: widths of the embeddings of the noise and of both, in the same unit; None: that of
        the first level, and of the widest.
    num_blocks: of each level of the encoder; the decoder has one more.
    attn_resolutions: sides img_resolution * 2^-l of the levels with attention; the decoder's first block always has it.
    label_balance, concat_balance, res_balance, attn_balance: t of `mp_sum` and `mp_cat`. clip_act: limit of activations.
    dtype: of the computation between the embeddings and the last convolution, which are float32 as is the output.
    plain_convolution, remat, remat_keep, attention_kernel: as of `models.UNet`.
    perturb: replaces the softmax attention of `perturb_blocks`, names of `attention_blocks`; None: of the decoder's first
        block, which is in the middle of the network (see `models.perturbation`).
    """

    img_resolution: int
    img_channels: int
    label_dim: int
    model_channels: int = 192
    channel_mult: Sequence[int | float] = (1, 2, 3, 4)
    channel_mult_noise: int | float | None = None
    channel_mult_emb: int | float | None = None
    num_blocks: int = 3
    attn_resolutions: Sequence[int] = (16, 8)
    channels_per_head: int = 64
    label_balance: float | int = 0.5
    concat_balance: float | int = 0.5
    res_balance: float | int = 0.3
    attn_balance: float | int = 0.3
    clip_act: float | int | None = 256
    logvar_channels: int = 128
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    remat: bool = False
    remat_keep: str = "nothing"
    attention_kernel: str = "plain"
    perturb: Any = None
    perturb_blocks: Sequence[str] | None = None

    def setup(self) -> None:
        self.logvar_fourier = Fourier(self.logvar_channels)
        self.logvar_linear = nn.Dense(1, use_bias=False, kernel_init=unit_normal)

    def log_variance(self, c_noise: Num[Array, "*batch"] | float | int) -> Float[Array, "*batch"]:
        """u, the logarithm of the expected square of the error at noise c_noise = ln(sigma) / 4 ([EDM2] eq. 21)."""
        return self.logvar_linear(self.logvar_fourier(jnp.asarray(c_noise)))[..., 0]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        c_noise: Num[Array, "..."] | float | int,
        label: Num[Array, "..."] | int | None = None,
    ) -> Float[Array, "*batch h w {self.img_channels}"]:
        """F(x, c_noise, label), the raw output.

        x: any number of batch axes, none included. c_noise: ln(sigma) / 4, one per example or a scalar. label: one per
        example or a scalar; None or label_dim, the number beyond the classes, for no label. ValueError for sizes, labels
        and shapes that do not fit.
        """
        batch = x.shape[:-3]
        self._check(x, label)
        c_noise = per_example(c_noise, batch, "c_noise")
        if self.is_initializing():
            self.log_variance(c_noise)
        emb = self._embed(c_noise, label)
        h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(self.dtype)
        options: dict[str, Any] = {"plain": self.plain_convolution, "use_bias": False}
        first = f"unet.enc.{self.img_resolution}x{self.img_resolution}_conv"
        skips = [conv3x3(h, self._widths()[0], first, dtype=self.dtype, **options)]
        h = skips[0]
        for place in self.places():
            if place.joined:
                h = mp_cat(h, skips.pop(), self.concat_balance)
            h = self._block(place)(h, emb)
            if place.name.startswith("enc."):
                skips.append(h)
        return conv3x3(h.astype(jnp.float32), self.img_channels, "unet.out_conv", **options)

    def places(self) -> list[Place]:
        """Return the blocks from input to output."""
        found: list[Place] = []
        levels = [(self.img_resolution >> level, width) for level, width in enumerate(self._widths())]
        channels = levels[0][1]
        for level, (side, width) in enumerate(levels):
            if level:
                found.append(Place(f"enc.{side}x{side}_down", channels, "down", False))
            channels, attends = width, side in self.attn_resolutions
            found += [Place(f"enc.{side}x{side}_block{i}", width, None, attends) for i in range(self.num_blocks)]
        for level, (side, width) in reversed(list(enumerate(levels))):
            name = f"dec.{side}x{side}"
            if level == len(levels) - 1:
                found += [Place(f"{name}_in{i}", channels, None, i == 0) for i in range(2)]
            else:
                found.append(Place(f"{name}_up", channels, "up", False))
            channels, attends = width, side in self.attn_resolutions
            found += [Place(f"{name}_block{i}", width, None, attends, True) for i in range(self.num_blocks + 1)]
        return found

    def attention_blocks(self) -> list[str]:
        """Return the names of the blocks with attention, as `perturb_blocks` takes them, from input to output."""
        return [place.name for place in self.places() if self._heads(place)]

    def middle_block(self) -> str:
        """Return the name of the decoder's first block, at the lowest resolution."""
        side = self.img_resolution >> len(self.channel_mult) - 1
        return f"dec.{side}x{side}_in0"

    def _widths(self) -> list[int]:
        return [int(mult * self.model_channels) for mult in self.channel_mult]

    def _heads(self, place: Place) -> int:
        return place.channels // self.channels_per_head if place.attends else 0

    def _check(self, x: Array, label: Any) -> None:
        if x.shape[-1] != self.img_channels:
            raise ValueError(f"the network takes {self.img_channels} channels and was given {x.shape[-1]}.")
        check_image_size(x.shape[-3:-1], self.channel_mult)
        if label is not None and not self.label_dim:
            raise ValueError("an unconditional network (label_dim=0) takes no label.")
        if label is not None:
            check_index("label", label, self.label_dim + 1)
        if self.perturb is not None:
            check_perturbed(self)

    def _embed(self, c_noise: Array, label: Any) -> Float[Array, "*batch e"]:
        """mp_silu(mp_sum(W fourier(c_noise), row of the label)), float32."""
        widths, base = self._widths(), self.model_channels
        noise, width = self.channel_mult_noise, self.channel_mult_emb
        fourier = Fourier(widths[0] if noise is None else int(base * noise), name="unet.emb_fourier")
        emb = linear(fourier(c_noise), max(widths) if width is None else int(base * width), "unet.emb_noise")
        if self.label_dim:
            label = per_example(self.label_dim if label is None else label, c_noise.shape, "label")
            rows = LabelRows(self.label_dim, emb.shape[-1], name="unet.emb_label")(label)
            emb = mp_sum(emb, rows, self.label_balance)
        return mp_silu(emb)

    def _block(self, place: Place) -> Block:
        perturbed = self.perturb is not None and place.name in perturbed_blocks(self)
        return remat(self, Block)(
            place.channels,
            encoder=place.name.startswith("enc."),
            resample=place.resample,
            num_heads=self._heads(place),
            balances=(self.res_balance, self.attn_balance),
            clip=self.clip_act,
            dtype=self.dtype,
            plain_convolution=self.plain_convolution,
            perturb=self.perturb if perturbed else kernel(self.attention_kernel),
            name=f"unet.{place.name}",
        )
