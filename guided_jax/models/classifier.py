"""The classifier of ADM: the U-Net's encoder with a head that reads the class of a noisy image."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from guided_jax.models.blocks import dense, multi_head_attention
from guided_jax.models.encoder import embed_time, encode, head_count, middle, per_example
from guided_jax.models.ops.norm import group_norm


class AttentionPool(nn.Module):
    """logits = W attention([mean token, tokens] + positions)_0: the mean token attends to all tokens (CLIP's pool)."""

    features: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch k"]:
        """Return the logits; ValueError for another number of positions than that of the initialisation."""
        *batch, h, w, c = x.shape
        tokens = x.reshape(*batch, h * w, c)
        tokens = jnp.concatenate([tokens.mean(axis=-2, keepdims=True), tokens], axis=-2)
        tokens = tokens + jnp.broadcast_to(self._positions(c, h * w + 1).T, tokens.shape)
        attended = multi_head_attention(dense(tokens, 3 * c, "qkv_proj"), self.num_heads, new_order=True)
        return dense(attended[..., 0, :], self.features, "c_proj")

    def _positions(self, channels: int, length: int) -> Array:
        shape = (channels, length)
        if self.has_variable("params", "positional_embedding"):
            expected: tuple[int, int] = self.get_variable("params", "positional_embedding").shape
            if expected != shape:
                raise ValueError(
                    f"the attention pool was made for {expected[1] - 1} positions and the image leaves {length - 1}: "
                    "give images of the size it was made for, or choose pool='adaptive'."
                )
        return self.param("positional_embedding", nn.initializers.normal(channels**-0.5), shape)


class Classifier(nn.Module):
    """logits = classifier.apply(params, x, t); log p(y | x_t) = log_softmax(logits)[y].

    pool: "attention" (needs num_head_channels and a fixed image size), "adaptive" (mean over the positions), "spatial"
    or "spatial_v2" (a two-layer network on the means of every block's output). The other fields are those of `UNet`.
    """

    num_classes: int
    model_channels: int = 128
    channel_mult: Sequence[int | float] = (1, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (2, 4)
    num_heads: int = 4
    num_head_channels: int | None = 64
    dropout: float | int = 0.0
    pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "attention"
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
    dims: int = 2

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        *,
        dropout_keys: Key[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch {self.num_classes}"]:
        """x, t, dropout_keys: as for `UNet`. Float32 logits. ValueError for a size or a pool that does not fit."""
        emb = embed_time(self, per_example(t, x.shape[:-3], "t"))
        outputs = encode(self, x, emb, dropout_keys)
        outputs.append(middle(self, outputs[-1], emb, dropout_keys))
        if self.pool in ("spatial", "spatial_v2"):
            return self._spatial_head(outputs)
        if self.pool not in ("adaptive", "attention"):
            raise ValueError(f"pool is one of adaptive, attention, spatial, spatial_v2, not {self.pool!r}.")
        h = nn.silu(group_norm(outputs[-1].astype(jnp.float32), self.num_groups, "out_0"))
        if self.pool == "adaptive":
            return dense(h.mean(axis=(-3, -2)), self.num_classes, "out_3", zero=True)
        if self.num_head_channels is None:
            raise ValueError("pool='attention' needs num_head_channels.")
        return AttentionPool(self.num_classes, head_count(h.shape[-1], self.num_head_channels), name="out_2")(h)

    def _spatial_head(self, outputs: list[Array]) -> Array:
        means = [h.astype(jnp.float32).mean(axis=(-3, -2)) for h in outputs]
        hidden = dense(jnp.concatenate(means, axis=-1), 2048, "out_0")
        if self.pool == "spatial":
            return dense(jax.nn.relu(hidden), self.num_classes, "out_2")
        hidden = nn.silu(group_norm(hidden, self.num_groups, "out_1", axes=()))
        return dense(hidden, self.num_classes, "out_3")
