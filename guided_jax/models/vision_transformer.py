"""The vision transformer of DINOv2: a picture in, a vector of features for it and for each of its patches out.

    x = [class token + its position, registers, W patches + positions]
    x += g_1 attention(LN(x)),  x += g_2 mlp(LN(x)), in each block; g_1, g_2 one number a channel
    features = LN(x)

Sources: [DINOv2] Oquab et al. 2304.07193; [ViT] Dosovitskiy et al. 2010.11929; [Registers] Darcet et al. 2309.16588; the
numbers g_1, g_2 are those of [CaiT] Touvron et al. 2103.17239.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.models.blocks import attend, split_heads
from guided_jax.models.encoder import to_patches
from guided_jax.models.ops import bicubic
from guided_jax.models.ops.norm import along_last, layer_norm

small_normal = nn.initializers.normal(0.02)


class PatchFeatures(NamedTuple):
    """pooled (d,): of the class token. patches (h, w, d): one for each patch. Both after the final norm, float32."""

    pooled: Any
    patches: Any


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the channels, float32 inside."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        normed = layer_norm(x.astype(jnp.float32), self.epsilon)
        return (normed * along_last(scale, x.ndim) + along_last(bias, x.ndim)).astype(x.dtype)


class LayerScale(nn.Module):
    """gamma x, one number a channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        return x * along_last(gamma.astype(x.dtype), x.ndim)


class Block(nn.Module):
    """x += g_1 attention(LN(x)), x += g_2 mlp(LN(x))."""

    num_heads: int
    mlp_width: int
    norm_epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
        width = x.shape[-1]
        qkv = self._dense(3 * width, "qkv")(LayerNorm(self.norm_epsilon, name="norm1")(x))
        attended = attend(*split_heads(qkv, self.num_heads, new_order=True)).reshape(x.shape)
        x = x + LayerScale(name="ls1")(self._dense(width, "proj")(attended))
        h = self._dense(self.mlp_width, "fc1")(LayerNorm(self.norm_epsilon, name="norm2")(x))
        h = self._dense(width, "fc2")(nn.gelu(h, approximate=False))
        return x + LayerScale(name="ls2")(h)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=small_normal, name=name)


class VisionTransformer(nn.Module):
    """PatchFeatures = net.apply(params, x): x (*batch, height, width, 3), sides multiples of patch_size.

    image_size: side of the pictures that the table of positions is made for; for others it is interpolated, bicubically.
    hidden_size, depth, num_heads, mlp_ratio: of the blocks.
    num_registers: tokens beside the class token, which no feature is read from.
    position_offset: added to the number of patches along a side when the table is interpolated: 0.1 in the original.
    position_antialias: smooth the table before it is made smaller, as the original does with registers.
    dtype: of the computation; norms, softmax, positions and the output are float32.

    >>> import jax
    >>> net = VisionTransformer(hidden_size=32, depth=1, num_heads=2, image_size=28)
    >>> x = jnp.zeros((5, 42, 28, 3))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.apply, params, x).patches.shape
    (5, 3, 2, 32)
    """

    hidden_size: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float | int = 4
    patch_size: int = 14
    image_size: int = 518
    num_registers: int = 0
    position_offset: float = 0.1
    position_antialias: bool = False
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w 3"]) -> PatchFeatures:
        """x: pixels as the network wants them, normalised. ValueError for sizes that do not fit."""
        if self.hidden_size % self.num_heads:
            raise ValueError(f"{self.hidden_size} channels cannot be split into {self.num_heads} attention heads.")
        dense = nn.Dense(self.hidden_size, dtype=self.dtype, kernel_init=small_normal, name="patch_embed")
        h = dense(to_patches(x.astype(self.dtype), self.patch_size))
        *batch, rows, columns, width = h.shape
        h = self._tokens(h)
        for i in range(self.depth):
            h = Block(self.num_heads, int(width * self.mlp_ratio), self.norm_epsilon, self.dtype, name=f"blocks_{i}")(h)
        h = LayerNorm(self.norm_epsilon, name="norm")(h.astype(jnp.float32))
        patches = h[..., 1 + self.num_registers :, :].reshape(*batch, rows, columns, width)
        return PatchFeatures(h[..., 0, :], patches)

    def _tokens(self, patches: Float[Array, "*batch h w d"]) -> Float[Array, "*batch n d"]:
        """Return the class token, the registers and the patches, each with its position where it has one."""
        *batch, rows, columns, width = patches.shape
        side = self.image_size // self.patch_size
        table = self.param("pos_embed", small_normal, (1, 1 + side**2, width)).astype(jnp.float32)
        first = self.param("cls_token", small_normal, (1, 1, width)) + table[:, :1]
        places = self._positions(table[0, 1:].reshape(side, side, width), (rows, columns))
        places = places.astype(patches.dtype).reshape((1,) * len(batch) + places.shape)
        found = (patches + places).reshape(*batch, rows * columns, width)
        tokens = [first]
        if self.num_registers:
            tokens += [self.param("register_tokens", small_normal, (1, self.num_registers, width))]
        repeated = [jnp.broadcast_to(each[0].astype(found.dtype), (*batch, *each.shape[1:])) for each in tokens]
        return jnp.concatenate([*repeated, found], -2)

    def _positions(self, table: Float[Array, "s s d"], size: tuple[int, int]) -> Float[Array, "h w d"]:
        if size == table.shape[:2]:
            return table
        return bicubic.resize(table, size, self.position_antialias, self.position_offset)
