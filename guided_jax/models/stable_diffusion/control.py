"""ControlNet: a copy of a U-Net's way down and middle that reads a picture, and what it adds to those of the U-Net.

    c_i = W_i encoder(conv(x) + hint(picture), t, text)_i        skip_i + scale c_i, middle + scale c_middle

W_i and the last layer of `hint` start at 0, so that a ControlNet changes nothing before it is trained. Names of layers are
those of its authors' weights, with "_" for ".".

Source: [CN] Zhang et al. 2302.05543, section 3.1 and 3.2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float, Num

from guided_jax.models.blocks import conv3x3, dense
from guided_jax.models.stable_diffusion import encoder


class Residuals(NamedTuple):
    """skips: of the outputs of every block on the way down, the first layer's first. middle: of the middle."""

    skips: Sequence[Float[Array, "..."]]
    middle: Float[Array, "..."]


def add_control(skips: Sequence[Array], h: Array, control: Residuals) -> tuple[list[Array], Array]:
    """Return the outputs of a U-Net's way down and of its middle with the residuals added; ValueError for other shapes."""
    pairs = [*zip(skips, control.skips, strict=False), (h, control.middle)]
    if len(skips) != len(control.skips) or any(own.shape != other.shape for own, other in pairs):
        raise ValueError(
            "the residuals are of a ControlNet for another U-Net, or for another x; give those of this one."
        )
    *skips, h = [own + other.astype(own.dtype) for own, other in pairs]
    return skips, h


class ControlNet(nn.Module):
    """residuals = control.apply(params, x, t, context, image); unet.apply(unet_params, x, t, context, control=residuals).

    unet: the U-Net that it steers, of which only the fields are read: its weights here are a copy, trained further.
    image_channels: of the picture. widths: channels of the layers that read it; each but the first halves its size, so that
    it has 2^(len(widths) - 1) times the sides of x.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from guided_jax.models import UNet2DConditionModel
    >>> unet = UNet2DConditionModel(block_out_channels=(32, 64), attention_levels=(True, False), cross_attention_dim=24)
    >>> x, context, image = jnp.zeros((8, 8, 4)), jnp.zeros((77, 24)), jnp.zeros((64, 64, 3))
    >>> found = jax.eval_shape(ControlNet(unet).init_with_output, jax.random.key(0), x, 0, context, image)[0]
    >>> len(found.skips), found.middle.shape
    (6, (4, 4, 64))
    """

    unet: Any
    image_channels: int = 3
    widths: Sequence[int] = (16, 32, 96, 256)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        context: Float[Array, "..."],
        image: Float[Array, "*batch H W k"],
        pooled: Float[Array, "..."] | None = None,
        time_ids: Num[Array, "..."] | None = None,
        label: Num[Array, "..."] | float | int | None = None,
        mask: Num[Array, "..."] | None = None,
        scale: Float[Array, ""] | float = 1.0,
    ) -> Residuals:
        """image: in [0, 1], beside x. scale: of the residuals. The other arguments are those of the U-Net.

        ValueError for shapes and conditions that do not fit.
        """
        net, batch = self.unet, x.shape[:-3]
        encoder.check_inputs(net, x, context)
        self._check(x, image)
        emb = encoder.embed(net, batch, t, pooled, time_ids, label)
        context, bias = encoder.encode_text(net, context, mask, batch)
        skips = encoder.encode(net, encoder.first_layer(net, x) + self._hint(image), emb, context, bias)
        h = encoder.middle(net, skips[-1], emb, context, bias)
        added = [self._zero(skip, f"zero_convs_{i}_0") for i, skip in enumerate(skips)]
        return Residuals([scale * each for each in added], scale * self._zero(h, "middle_block_out_0"))

    def _check(self, x: Array, image: Array) -> None:
        factor = 2 ** (len(self.widths) - 1)
        wanted = (*x.shape[:-3], factor * x.shape[-3], factor * x.shape[-2], self.image_channels)
        if image.shape != wanted:
            raise ValueError(f"the picture of a ControlNet has shape {image.shape}; beside x it has {wanted}.")

    def _hint(self, image: Array) -> Array:
        """Return the picture as large and as wide as the first layer of x."""
        options: dict[str, Any] = {"dtype": self.unet.dtype, "plain": self.unet.plain_convolution}
        h = nn.silu(conv3x3(image.astype(self.unet.dtype), self.widths[0], "input_hint_block_0", **options))
        for i, (width, wider) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            h = nn.silu(conv3x3(h, width, f"input_hint_block_{4 * i + 2}", **options))
            h = nn.silu(conv3x3(h, wider, f"input_hint_block_{4 * i + 4}", stride=2, **options))
        last = f"input_hint_block_{4 * len(self.widths) - 2}"
        return conv3x3(h, self.unet.block_out_channels[0], last, zero=True, **options)

    def _zero(self, h: Array, name: str) -> Array:
        return dense(h, h.shape[-1], name, self.unet.dtype, zero=True)
