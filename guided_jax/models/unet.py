"""The U-Net of ADM (Dhariwal and Nichol 2021): a noisy image and its time in, an image-shaped prediction out.

It may have a second head on a block in the middle, the worse model of internal guidance ([IG] Zhou et al. 2512.24176), and
may be told the scale of a guidance that it has learned to make by itself ([GD] Meng et al. 2210.03142).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from guided_jax.checks import check_index
from guided_jax.models.blocks import conv3x3, dense, resize_bilinear, timestep_embedding
from guided_jax.models.encoder import (
    attend_both,
    embed_time,
    encode,
    from_patches,
    middle,
    per_example,
    resampler,
    residual,
    widths,
)
from guided_jax.models.memory import Memory
from guided_jax.models.ops.norm import group_norm
from guided_jax.models.perturbation import check_perturbed
from guided_jax.models.text import Text, TextEmbedding


class UNet(nn.Module):
    """output = unet.apply(params, x, t, label, low_res); params = unet.init(key, x, t, label, low_res).

    out_channels: the image's channels, twice that for a learned variance.
    model_channels: base width; level l has int(channel_mult[l] * model_channels) channels and 2^-l of the resolution.
    attention_resolutions: downsampling factors (1, 2, 4, ...) of the levels with attention; the middle always has it.
    num_head_channels: channels of an attention head; None: `num_heads` heads whatever the width, and
        `num_heads_upsample` (None: as many) on the way up.
    num_classes: None for a network without classes. null_label: one more row, index num_classes, which means "no label"
        and makes one network both conditional and unconditional, for classifier-free guidance.
    vector: the size of a vector that the network takes in the place of a label, such as 2 K numbers of
        `model.known_values`; None for none.
    text: whether it takes a text in the place of a label, the states of a text encoder; see `models.text`. num_words: of
        the vocabulary of a network that takes the numbers of words instead, and learns them.
    memory: pictures that a network of texts keeps at most, to look up those of the nearest captions; see `models.memory`.
    resblock_updown: resample within ResBlocks; else by a convolution (conv_resample) or without parameters.
    num_groups: of every group norm; it has to divide every width.
    patch: side of the squares of pixels that the network works on as one pixel of more channels: a network for half the
        resolution costs a quarter. Factors and levels count from there.
    dtype: of the computation; parameters, norms, softmax, embeddings and the output are float32.
    plain_convolution: XLA's own convolution, which allows forward-mode derivatives (see `models.ops.convolution`).
    remat: recompute the inside of each block for its gradient, instead of keeping it: less memory, more time.
    remat_keep: "nothing", or "products": keep the results of convolutions and matrix products, recompute the rest.
    attention_kernel: "plain", or JAX's own "xla" or "cudnn" (see `models.ops.attention`).
    perturb: replaces the softmax attention of `perturb_blocks` (see `models.perturbation`); the parameters stay.
        unet.clone(perturb=...) is the bad model of perturbed-attention guidance.
    dims: 2, or 1 for signals (*batch, length, 1, channels): convolutions of 3x1, and halves of the length alone.
    internal_head: "middle_block", or an "output_blocks_i" before the last, whose output has a head of its own, trained as
        unet.clone(exit_block=internal_head): [IG]'s worse model. A pixel of the block is a square of pixels of the output.
    exit_block: the output is read by that head alone. both_heads: the outputs of both heads, one after the other along the
        channels, in one call; XLA does not merge two calls in a loop.
    scale_input: whether it takes a guidance scale beside the label, as `losses.teach` trains it ([GD]).

    A freshly initialised network returns exactly 0.

    >>> import jax
    >>> unet = UNet(out_channels=3, model_channels=32, num_classes=10)
    >>> x, t, label = jnp.zeros((8, 32, 32, 3)), jnp.zeros(8), jnp.zeros(8, int)
    >>> params = jax.eval_shape(unet.init, jax.random.key(0), x, t, label)  # shapes alone; `unet.init` for the arrays
    >>> jax.eval_shape(unet.apply, params, x, t, label).shape
    (8, 32, 32, 3)
    """

    out_channels: int = 3
    model_channels: int = 128
    channel_mult: Sequence[int | float] = (1, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (2, 4)
    num_heads: int = 4
    num_head_channels: int | None = None
    num_heads_upsample: int | None = None
    dropout: float | int = 0.0
    num_classes: int | None = None
    null_label: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    use_new_attention_order: bool = False
    num_groups: int = 32
    patch: int = 1
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    remat: bool = False
    remat_keep: str = "nothing"
    attention_kernel: str = "plain"
    perturb: Any = None
    perturb_blocks: Sequence[str] = ("middle_block",)
    dims: int = 2
    vector: int | None = None
    text: bool = False
    num_words: int | None = None
    memory: int = 0
    internal_head: str | None = None
    exit_block: str | None = None
    both_heads: bool = False
    scale_input: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        label: Num[Array, "..."] | int | None = None,
        low_res: Float[Array, "*batch h2 w2 c"] | None = None,
        scale: Num[Array, "..."] | float | int | None = None,
        *,
        dropout_keys: Key[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch h w {self.out_channels*(1+self.both_heads)}"]:
        """output = decoder(middle(encoder(x)), encoder(x)), all conditioned on the time and the label.

        x: any number of batch axes, none included. t: the network's own time, one per example or a scalar.
        label: in [0, num_classes), one per example or a scalar, None for the null label; or, (*batch, vector), a vector.
        low_res: the same pictures at a lower resolution, for a super-resolution network. scale: of the guidance, one per
        example or one for all, None for 1. dropout_keys: one key per example, for training; without them nothing is
        dropped. ValueError for sizes, labels, blocks and shapes that do not fit.
        """
        batch = x.shape[:-3]
        if self.perturb is not None:
            check_perturbed(self)
        emb = self._embed_scale(embed_time(self, per_example(t, batch, "t")), scale)
        text = None
        if self.text:
            text = self._embed_text(label, batch)
            emb = emb + dense(text.pooled, emb.shape[-1], "label_emb")
        elif self.vector is not None:
            emb = emb + self._embed_vector(label, batch)
        elif self.num_classes is not None or label is not None:
            emb = emb + self._embed_label(label, batch)
        x = self._with_low_res(self._with_memory(x, label), low_res)
        skips = encode(self, x, emb, dropout_keys, text)
        h = middle(self, skips[-1], emb, dropout_keys, text)
        leaves = self.exit_block is not None and not self.is_initializing()
        inner, h = self._decode(h, skips, emb, dropout_keys, text, leaves)
        if inner is None or not (leaves or self.both_heads or self.is_initializing()):
            return self._head(h, "out", self.patch)
        internal = self._head(inner, "internal", x.shape[-3] // inner.shape[-3])
        if leaves:
            return internal
        last = self._head(h, "out", self.patch)
        return jnp.concatenate([last, internal], axis=-1) if self.both_heads else last

    def _head(self, h: Array, name: str, side: int) -> Array:
        """Return conv(silu(norm(h))), float32, each pixel of h a square of the output of this side."""
        h = nn.silu(group_norm(h.astype(jnp.float32), self.num_groups, f"{name}_0"))
        options: dict[str, Any] = {"zero": True, "plain": self.plain_convolution, "dims": self.dims}
        h = conv3x3(h, self.out_channels * side**self.dims, f"{name}_2", **options)
        return from_patches(h, side, self.dims)

    def _embed_scale(self, emb: Array, scale: Any) -> Array:
        """Return emb + W silu(W [cos, sin](10 scale)), W 0 at first; emb itself for a network that takes no scale."""
        if not self.scale_input:
            if scale is not None:
                raise ValueError("the network takes no guidance scale (scale_input=False); leave it out.")
            return emb
        scale = per_example(1.0 if scale is None else scale, emb.shape[:-1], "scale")
        hidden = nn.silu(dense(timestep_embedding(10 * scale, self.model_channels), emb.shape[-1], "scale_embed_0"))
        return emb + dense(hidden, emb.shape[-1], "scale_embed_2", zero=True)

    def _embed_label(self, label: Any, batch: tuple[int, ...]) -> Array:
        if self.num_classes is None:
            raise ValueError("an unconditional network (num_classes=None) takes no label.")
        if label is None and not self.null_label:
            raise ValueError("a class-conditional network needs a label unless it has null_label=True.")
        rows = self.num_classes + self.null_label
        label = self.num_classes if label is None else label
        check_index("label", label, rows)
        label = per_example(label, batch, "label")
        embed = nn.Embed(rows, 4 * self.model_channels, embedding_init=nn.initializers.normal(1.0), name="label_emb")
        return embed(label)

    def _embed_text(self, text: Any, batch: tuple[int, ...]) -> Text:
        rank = 1 if self.num_words is not None else 2
        if text is None or jnp.ndim(text) not in (rank, rank + len(batch)):
            what = "numbers of words (length,)" if rank == 1 else "states (length, width)"
            given = "none" if text is None else f"shape {jnp.shape(text)}"
            raise ValueError(f"the network takes a text for each example, {what}, and was given {given}.")
        text = jnp.broadcast_to(text, (*batch, *jnp.shape(text)[-rank:]))
        return TextEmbedding(4 * self.model_channels, self.num_words, name="text_emb")(text)

    def _embed_vector(self, vector: Any, batch: tuple[int, ...]) -> Array:
        shape = None if vector is None else jnp.shape(vector)
        if shape not in ((self.vector,), (*batch, self.vector)):
            raise ValueError(
                f"the network takes a vector of {self.vector} numbers for each example, and was given "
                f"{'none' if shape is None else f'shape {shape}'}."
            )
        vector = jnp.broadcast_to(jnp.asarray(vector, jnp.float32), (*batch, self.vector))
        return dense(vector, 4 * self.model_channels, "label_emb")

    def _with_memory(self, x: Array, text: Any) -> Array:
        """Return [x, the remembered pictures of the nearest captions] along the channels."""
        if not self.memory:
            return x
        memory = Memory(self.memory, num_words=self.num_words, name="memory")
        height, width = x.shape[-3:-1]
        found = memory(text, (height, width, self.out_channels)).astype(x.dtype)
        return jnp.concatenate([x, jnp.broadcast_to(found, (*x.shape[:-1], found.shape[-1]))], axis=-1)

    def _with_low_res(self, x: Array, low_res: Array | None) -> Array:
        """Return [x, low_res at the size of x] along the channels; ValueError when the weights expect other channels."""
        if low_res is not None:
            x = jnp.concatenate([x, resize_bilinear(low_res, (x.shape[-3], x.shape[-2])).astype(x.dtype)], axis=-1)
        first, given = self.variables.get("params", {}).get("input_blocks_0_0"), x.shape[-1] * self.patch**self.dims
        if first is not None and first["kernel"].shape[2] != given:
            raise ValueError(
                f"the network's first layer takes {first['kernel'].shape[2]} channels and was given {given} "
                f"({'with' if low_res is not None else 'without'} low_res)."
            )
        return x

    def _decode(
        self, h: Array, skips: list[Array], emb: Array, keys: Any, text: Text | None, leaves: bool
    ) -> tuple[Array | None, Array]:
        """Return (the output of the block of the internal head, that of the last block, or of that one if h leaves there).

        Each block on the way up takes the output of one encoder block beside h, the most recent first.
        """
        head = self._internal_block()
        inner = h if head == "middle_block" else None
        num_heads, index = self.num_heads_upsample or self.num_heads, 0
        for level, channels in reversed(list(enumerate(widths(self)))):
            for i in range(self.num_res_blocks + 1):
                if leaves and inner is not None:
                    return inner, h
                name, child = f"output_blocks_{index}", 1
                h = residual(self, f"{name}_0", channels)(jnp.concatenate([h, skips.pop()], axis=-1), emb, keys)
                if 2**level in self.attention_resolutions:
                    h, child = attend_both(self, name, channels, num_heads, h, text), 2
                if level and i == self.num_res_blocks:
                    h = resampler(self, f"{name}_{child}", channels, "up")(h, emb, keys)
                inner = h if head == name else inner
                index += 1
        return inner, h

    def _internal_block(self) -> str | None:
        """Return the block of the internal head; ValueError for one that cannot have it, and for another exit."""
        names = internal_blocks(self)
        if self.internal_head is not None and self.internal_head not in names:
            raise ValueError(f"internal_head has {self.internal_head!r}, but the network has {', '.join(names)}.")
        if self.exit_block not in (None, self.internal_head):
            own = (
                f"only {self.internal_head!r} has a head"
                if self.internal_head
                else "no block has a head (internal_head)"
            )
            raise ValueError(f"exit_block has {self.exit_block!r}, but {own}.")
        if self.both_heads and (self.internal_head is None or self.exit_block is not None):
            raise ValueError("both_heads is for a network with an internal_head and without an exit_block.")
        return self.internal_head


def internal_blocks(net: Any) -> list[str]:
    """Return the names of the blocks of a `UNet` that may have an internal head, from the middle on, without the last."""
    last = len(net.channel_mult) * (net.num_res_blocks + 1) - 1
    return ["middle_block", *(f"output_blocks_{i}" for i in range(last))]
