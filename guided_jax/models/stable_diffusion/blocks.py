"""The blocks of Stable Diffusion's U-Net that its residual blocks are not: attention to the picture, and to the text.

Source: [LDM] Rombach et al. 2112.10752, appendix E.2.1; names of layers are those of its published weights, with "_" for
".". Pictures are (*batch, height, width, channels), texts (*batch, tokens, width).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.models.blocks import attend, attention_weights, dense, torch_uniform
from guided_jax.models.encoder import remat
from guided_jax.models.ops.norm import group_norm
from guided_jax.models.sequence import layer_norm

GROUP_EPSILON = 1e-6  # of the group norm before the layers, whatever those of the residual blocks have
LAYER_EPSILON = 1e-5


class SpatialTransformer(nn.Module):
    """y = x + W_out layers(W_in norm(x), text), every position of the picture a token; W_out starts at 0.

    depth: layers. only_cross: whether the first attention of each is to the text as well, and none to the picture.
    remat, remat_keep: of each layer. perturb: as of `blocks.AttentionBlock`.
    """

    num_heads: int
    depth: int = 1
    only_cross: bool = False
    num_groups: int = 32
    dtype: Any = jnp.float32
    perturb: Any = None
    remat: bool = False
    remat_keep: str = "nothing"

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], context: Float[Array, "*batch length d"], bias: Any = None
    ) -> Float[Array, "*batch h w c"]:
        """bias: of the logits of the attention to the text, as of `blocks.attend`."""
        channels = x.shape[-1]
        h = group_norm(x, self.num_groups, "norm", epsilon=GROUP_EPSILON)
        h = dense(h, channels, "proj_in", self.dtype)
        for i in range(self.depth):
            layer = remat(self, TransformerLayer)
            name = f"transformer_blocks_{i}"
            h = layer(self.num_heads, self.only_cross, self.dtype, self.perturb, name=name)(h, context, bias)
        return x + dense(h, channels, "proj_out", self.dtype, zero=True)


class TransformerLayer(nn.Module):
    """x += attention(LN(x)), x += attention(LN(x), text), x += W (a gelu(b)), [a, b] = W LN(x); gelu is the exact one."""

    num_heads: int
    only_cross: bool = False
    dtype: Any = jnp.float32
    perturb: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], context: Float[Array, "*batch length d"], bias: Any = None
    ) -> Float[Array, "*batch h w c"]:
        """Arguments as of `SpatialTransformer`."""
        norm = partial(layer_norm, LAYER_EPSILON)
        to_own = Attention(self.num_heads, self.dtype, self.perturb, name="attn1")
        # As in the reference, the mask is that of the second attention alone.
        x = x + to_own(norm("norm1")(x), context if self.only_cross else None)
        x = x + Attention(self.num_heads, self.dtype, name="attn2")(norm("norm2")(x), context, bias)
        inner = dense(norm("norm3")(x), 8 * x.shape[-1], "ff_net_0_proj", self.dtype)
        values, gates = jnp.split(inner, 2, axis=-1)
        return x + dense(values * nn.gelu(gates, approximate=False), x.shape[-1], "ff_net_2", self.dtype)


class Attention(nn.Module):
    """W concat(softmax(q k^T / sqrt(ch)) v) of all heads; q of the picture, k and v of the text, or of the picture too.

    perturb, and a mutable collection "attention": as of `blocks.AttentionBlock`, for the attention within the picture.
    """

    num_heads: int
    dtype: Any = jnp.float32
    perturb: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], context: Float[Array, "*batch length d"] | None = None, bias: Any = None
    ) -> Float[Array, "*batch h w c"]:
        """context: None for attention within the picture. ValueError when the heads do not divide the channels."""
        *batch, height, width, channels = x.shape
        if channels % self.num_heads:
            raise ValueError(f"{channels} channels cannot be split into {self.num_heads} attention heads.")
        tokens = x.reshape(*batch, height * width, channels)
        source = tokens if context is None else context
        q = self._heads(tokens, channels, "to_q")
        k, v = (self._heads(source, channels, name) for name in ("to_k", "to_v"))
        if context is None and self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "mass", attention_weights(q, k).mean(-3).sum(-2).reshape(*batch, height, width))
        if context is None and self.perturb is not None:
            attended = self.perturb(q, k, v, (height, width))
        else:
            attended = attend(q, k, v, bias)
        return dense(attended.reshape(x.shape), channels, "to_out_0", self.dtype)

    def _heads(self, tokens: Array, channels: int, name: str) -> Array:
        """W tokens, (*batch, length, heads, ch)."""
        layer = nn.Dense(channels, use_bias=False, dtype=self.dtype, kernel_init=torch_uniform, name=name)
        return layer(tokens).reshape(*tokens.shape[:-1], self.num_heads, -1)
