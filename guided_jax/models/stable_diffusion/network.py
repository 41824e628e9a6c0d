"""The U-Net of Stable Diffusion 1, 2 and XL: a noisy latent, its time and a text in, a prediction of the same size out.

The blocks are those of ADM's U-Net, with attention to a text beside that to the picture; names of modules are those of the
published weights in their first format, which is ADM's, with "_" for ".".

Sources: [LDM] Rombach et al. 2112.10752; the sizes as conditions and the pooled text: [SDXL] Podell et al. 2307.01952.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from guided_jax.models.blocks import conv3x3
from guided_jax.models.ops.norm import group_norm
from guided_jax.models.perturbation import check_perturbed
from guided_jax.models.stable_diffusion import encoder
from guided_jax.models.stable_diffusion.control import add_control


class UNet2DConditionModel(nn.Module):
    """output = unet.apply(params, x, t, context); params = unet.init(key, x, t, context).

    in_channels, out_channels: of x and of the output; an inpainting network takes [latent, mask, latent of the rest], 9.
    block_out_channels: channels of each level; every level but the first has half the resolution of the one before.
    attention_levels: of each level, whether it has attention; the middle always has it.
    num_heads, transformer_layers, only_cross_attention: of each level, or one for all; the middle has those of the last,
        but always attention within the picture.
    layers_per_block: residual blocks of a level on the way down; on the way up it has one more.
    num_groups, norm_epsilon: of every group norm.
    cross_attention_dim: width of the text.
    class_embedding: None; "table", of num_classes rows; "timestep", a number embedded as the time is; or "projection", a
        vector of class_features numbers.
    added_features: None, or how many numbers the pooled text and the sizes make, each size `size_features` of them.
    dtype: of the computation; norms, softmax, embeddings, the last layers and the output are float32.
    plain_convolution, remat, remat_keep: as of `models.UNet`. attention_kernel: too, for the attention within the picture.
    perturb: replaces that attention in `perturb_blocks`, names of `attention_blocks` (see `models.perturbation`); None: in
        the middle one.

    Blocks are named "input_blocks_1" ..., "middle_block", "output_blocks_0" .... A freshly initialised network returns 0.

    >>> import jax
    >>> unet = UNet2DConditionModel(block_out_channels=(32, 64), attention_levels=(True, False), cross_attention_dim=24)
    >>> x, t, context = jnp.zeros((2, 16, 16, 4)), jnp.zeros(2), jnp.zeros((2, 77, 24))
    >>> params = jax.eval_shape(unet.init, jax.random.key(0), x, t, context)  # shapes alone; `unet.init` for the arrays
    >>> jax.eval_shape(unet.apply, params, x, t, context).shape
    (2, 16, 16, 4)
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    attention_levels: Sequence[bool] = (True, True, True, False)
    layers_per_block: int = 2
    num_heads: int | Sequence[int] = 8
    transformer_layers: int | Sequence[int] = 1
    only_cross_attention: bool | Sequence[bool] = False
    num_groups: int = 32
    norm_epsilon: float = 1e-5
    cross_attention_dim: int = 768
    class_embedding: str | None = None
    num_classes: int | None = None
    class_features: int | None = None
    added_features: int | None = None
    size_features: int = 256
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    remat: bool = False
    remat_keep: str = "nothing"
    attention_kernel: str = "plain"
    perturb: Any = None
    perturb_blocks: Sequence[str] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        context: Float[Array, "..."],
        pooled: Float[Array, "..."] | None = None,
        time_ids: Num[Array, "..."] | None = None,
        label: Num[Array, "..."] | float | int | None = None,
        mask: Num[Array, "..."] | None = None,
        control: Any = None,
    ) -> Float[Array, "*batch h w {self.out_channels}"]:
        """output = decoder(middle(encoder(x)), encoder(x)), all conditioned on the time and the text; float32.

        x: any number of batch axes, none included, and any size. t: steps of the network's own time, fractional allowed,
        one per example or a scalar. context: (tokens, width) of each example, or of all. pooled, time_ids: of [SDXL], the
        pooled text and (original height, width, top, left, target height, width), of each example or of all. label: of
        the class, likewise. mask: (tokens,), 1 for those to attend to, 0 to ignore. control: the `Residuals` of a
        `ControlNet` for the same inputs. ValueError for shapes and conditions that do not fit.
        """
        batch = x.shape[:-3]
        encoder.check_inputs(self, x, context)
        if self.perturb is not None:
            check_perturbed(self)
        emb = encoder.embed(self, batch, t, pooled, time_ids, label)
        context, bias = encoder.encode_text(self, context, mask, batch)
        skips = encoder.encode(self, encoder.first_layer(self, x), emb, context, bias)
        h = encoder.middle(self, skips[-1], emb, context, bias)
        if control is not None:
            skips, h = add_control(skips, h, control)
        h = self._decode(h, skips, emb, context, bias).astype(jnp.float32)
        h = nn.silu(group_norm(h, self.num_groups, "out_0", epsilon=self.norm_epsilon))
        return conv3x3(h, self.out_channels, "out_2", zero=True, plain=self.plain_convolution)

    def attention_blocks(self) -> list[str]:
        """Return the names of the blocks with attention within the picture, as `perturb_blocks` takes them, in order."""
        each, levels = self.layers_per_block, range(len(self.block_out_channels))
        own = [
            level
            for level in levels
            if self.attention_levels[level] and not encoder.at(self, "only_cross_attention", level)
        ]
        down = [f"input_blocks_{1 + level * (each + 1) + i}" for level in own for i in range(each)]
        up = [
            f"output_blocks_{(levels[-1] - level) * (each + 1) + i}" for level in reversed(own) for i in range(each + 1)
        ]
        return [*down, "middle_block", *up]

    def middle_block(self) -> str:
        """Return the name of the block at the lowest resolution."""
        return "middle_block"

    def _decode(self, h: Array, skips: list[Array], emb: Array, context: Array, bias: Any) -> Array:
        """Apply the blocks upwards; each takes the output of one encoder block beside h, the most recent first."""
        index = 0
        for level, channels in reversed(list(enumerate(self.block_out_channels))):
            for i in range(self.layers_per_block + 1):
                name, child = f"output_blocks_{index}", 1
                h = encoder.residual(self, f"{name}_0", channels)(jnp.concatenate([h, skips.pop()], axis=-1), emb)
                if self.attention_levels[level]:
                    h, child = encoder.transformer(self, f"{name}_1", level)(h, context, bias), 2
                if level and i == self.layers_per_block:
                    size = (skips[-1].shape[-3], skips[-1].shape[-2])
                    h = encoder.resample(self, f"{name}_{child}", "up")(h, size=size)
                index += 1
        return h
