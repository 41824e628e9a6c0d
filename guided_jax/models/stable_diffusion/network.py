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

from guided_jax.checks import check_index
from guided_jax.models.blocks import Resample, ResBlock, conv3x3, dense, timestep_embedding
from guided_jax.models.encoder import per_example, remat
from guided_jax.models.ops.attention import kernel
from guided_jax.models.ops.norm import group_norm
from guided_jax.models.perturbation import check_perturbed, perturbed_blocks
from guided_jax.models.stable_diffusion.blocks import SpatialTransformer

IGNORED = -10_000.0  # added to the logits of tokens that are masked


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
    ) -> Float[Array, "*batch h w {self.out_channels}"]:
        """output = decoder(middle(encoder(x)), encoder(x)), all conditioned on the time and the text; float32.

        x: any number of batch axes, none included, and any size. t: steps of the network's own time, fractional allowed,
        one per example or a scalar. context: (tokens, width) of each example, or of all. pooled, time_ids: of [SDXL], the
        pooled text and (original height, width, top, left, target height, width), of each example or of all. label: of
        the class, likewise. mask: (tokens,), 1 for those to attend to, 0 to ignore. ValueError for shapes and conditions
        that do not fit.
        """
        batch = x.shape[:-3]
        self._check(x, context)
        emb = self._embed(batch, t, pooled, time_ids, label)
        context = rows(context, batch, 2, "context").astype(self.dtype)
        bias = None if mask is None else (1 - rows(mask, batch, 1, "mask")[..., None, None, :]) * IGNORED
        h = conv3x3(x.astype(self.dtype), self.block_out_channels[0], "input_blocks_0_0", **self._options())
        skips = self._encode(h, emb, context, bias)
        channels = self.block_out_channels[-1]
        h = self._residual("middle_block_0", channels)(skips[-1], emb)
        h = self._transformer("middle_block_1", -1)(h, context, bias)
        h = self._residual("middle_block_2", channels)(h, emb)
        h = self._decode(h, skips, emb, context, bias).astype(jnp.float32)
        h = nn.silu(group_norm(h, self.num_groups, "out_0", epsilon=self.norm_epsilon))
        return conv3x3(h, self.out_channels, "out_2", zero=True, plain=self.plain_convolution)

    def attention_blocks(self) -> list[str]:
        """Return the names of the blocks with attention within the picture, as `perturb_blocks` takes them, in order."""
        each, levels = self.layers_per_block, range(len(self.block_out_channels))
        own = [
            level for level in levels if self.attention_levels[level] and not self._at("only_cross_attention", level)
        ]
        down = [f"input_blocks_{1 + level * (each + 1) + i}" for level in own for i in range(each)]
        up = [
            f"output_blocks_{(levels[-1] - level) * (each + 1) + i}" for level in reversed(own) for i in range(each + 1)
        ]
        return [*down, "middle_block", *up]

    def middle_block(self) -> str:
        """Return the name of the block at the lowest resolution."""
        return "middle_block"

    def _check(self, x: Array, context: Array) -> None:
        if x.shape[-1] != self.in_channels:
            raise ValueError(f"the network takes {self.in_channels} channels and was given {x.shape[-1]}.")
        if jnp.shape(context)[-1:] != (self.cross_attention_dim,):
            raise ValueError(
                f"the network takes texts of width {self.cross_attention_dim} and was given {jnp.shape(context)}: encode "
                "the prompt with the text encoders that it was trained with."
            )
        if self.perturb is not None:
            check_perturbed(self)

    def _embed(
        self, batch: tuple[int, ...], t: Any, pooled: Any, time_ids: Any, label: Any
    ) -> Float[Array, "*batch e"]:
        """Return the embedding of the time, of the class and of what [SDXL] adds, float32."""
        base, width = self.block_out_channels[0], 4 * self.block_out_channels[0]
        emb = mlp(timestep_embedding(per_example(t, batch, "t"), base), width, "time_embed")
        if self.class_embedding is None and label is not None:
            raise ValueError("a network without classes (class_embedding=None) takes no label.")
        if self.class_embedding is not None:
            emb = emb + self._embed_class(label, batch, width)
        if self.added_features is None and (pooled is not None or time_ids is not None):
            raise ValueError(
                "a network without added conditions (added_features=None) takes no pooled and no time_ids."
            )
        return emb if self.added_features is None else emb + self._embed_added(pooled, time_ids, batch, width)

    def _embed_class(self, label: Any, batch: tuple[int, ...], width: int) -> Array:
        if label is None:
            raise ValueError(f"the network needs a label, for its class_embedding is {self.class_embedding!r}.")
        if self.class_embedding == "table":
            classes = self.num_classes or 0
            check_index("label", label, classes)
            embed = nn.Embed(classes, width, embedding_init=nn.initializers.normal(1.0), name="label_emb")
            return embed(per_example(label, batch, "label"))
        if self.class_embedding == "timestep":
            features = timestep_embedding(per_example(label, batch, "label"), self.block_out_channels[0])
        elif self.class_embedding == "projection":
            features = rows(label, batch, 1, "label", self.class_features).astype(jnp.float32)
        else:
            raise ValueError(f"class_embedding is {self.class_embedding!r}; it is table, timestep, projection or None.")
        return mlp(features, width, "class_emb")

    def _embed_added(self, pooled: Any, time_ids: Any, batch: tuple[int, ...], width: int) -> Array:
        """Return the MLP of [pooled text, the embedding of each size]."""
        if pooled is None or time_ids is None:
            raise ValueError("the network needs pooled, the pooled text, and time_ids, the sizes; give both.")
        pooled, time_ids = rows(pooled, batch, 1, "pooled"), rows(time_ids, batch, 1, "time_ids")
        sizes = timestep_embedding(time_ids, self.size_features).reshape(*batch, -1)
        features = jnp.concatenate([pooled.astype(jnp.float32), sizes], axis=-1)
        if features.shape[-1] != self.added_features:
            raise ValueError(
                f"a pooled text of {pooled.shape[-1]} numbers and {time_ids.shape[-1]} sizes of {self.size_features} make "
                f"{features.shape[-1]}, and the network takes {self.added_features}."
            )
        return mlp(features, width, "label_emb_0")

    def _encode(self, h: Array, emb: Array, context: Array, bias: Any) -> list[Array]:
        """Return the outputs of all blocks on the way down, h first."""
        skips = [h]
        for level, channels in enumerate(self.block_out_channels):
            for _ in range(self.layers_per_block):
                name = f"input_blocks_{len(skips)}"
                h = self._residual(f"{name}_0", channels)(h, emb)
                if self.attention_levels[level]:
                    h = self._transformer(f"{name}_1", level)(h, context, bias)
                skips.append(h)
            if level < len(self.block_out_channels) - 1:
                h = self._resample(f"input_blocks_{len(skips)}_0", "down")(h)
                skips.append(h)
        return skips

    def _decode(self, h: Array, skips: list[Array], emb: Array, context: Array, bias: Any) -> Array:
        """Apply the blocks upwards; each takes the output of one encoder block beside h, the most recent first."""
        index = 0
        for level, channels in reversed(list(enumerate(self.block_out_channels))):
            for i in range(self.layers_per_block + 1):
                name, child = f"output_blocks_{index}", 1
                h = self._residual(f"{name}_0", channels)(jnp.concatenate([h, skips.pop()], axis=-1), emb)
                if self.attention_levels[level]:
                    h, child = self._transformer(f"{name}_1", level)(h, context, bias), 2
                if level and i == self.layers_per_block:
                    h = self._resample(f"{name}_{child}", "up")(h, size=(skips[-1].shape[-3], skips[-1].shape[-2]))
                index += 1
        return h

    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "plain": self.plain_convolution}

    def _at(self, field: str, level: int) -> Any:
        value = getattr(self, field)
        return value[level] if isinstance(value, Sequence) else value

    def _residual(self, name: str, channels: int) -> ResBlock:
        return remat(self, ResBlock)(
            channels,
            use_scale_shift_norm=False,
            num_groups=self.num_groups,
            dtype=self.dtype,
            plain_convolution=self.plain_convolution,
            norm_epsilon=self.norm_epsilon,
            name=name,
        )

    def _transformer(self, name: str, level: int) -> SpatialTransformer:
        """Return the attention of a level, of the middle for -1."""
        perturbed = self.perturb is not None and name.rpartition("_")[0] in perturbed_blocks(self)
        return SpatialTransformer(
            self._at("num_heads", level),
            self._at("transformer_layers", level),
            level >= 0 and self._at("only_cross_attention", level),
            self.num_groups,
            self.dtype,
            self.perturb if perturbed else kernel(self.attention_kernel),
            self.remat,
            self.remat_keep,
            name=name,
        )

    def _resample(self, name: str, direction: Any) -> Resample:
        return Resample(direction, True, self.dtype, self.plain_convolution, name=name)


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
