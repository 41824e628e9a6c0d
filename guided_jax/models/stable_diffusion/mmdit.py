"""The transformer of Stable Diffusion 3, MMDiT: a noisy latent, its time and a text in, a velocity of the same size out.

    x = W patches + positions,  y = W text,  c = silu(MLP(t) + MLP(pooled text))
    both, in each block: attention over the tokens of x and y together, then an MLP, modulated by c as in DiT
    output = W (LN(x) (1 + scale) + shift), as patches

Each of the two streams has weights of its own. Source: [SD3] Esser et al. 2403.03206, section 4 and figure 2. Guidance by
the network without some of its blocks: [STG] Hyung et al. 2411.18664.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from guided_jax.models.blocks import attend, timestep_embedding
from guided_jax.models.encoder import from_patches, per_example, remat, to_patches
from guided_jax.models.ops.attention import kernel
from guided_jax.models.ops.norm import layer_norm
from guided_jax.models.perturbation import block_name
from guided_jax.models.stable_diffusion.encoder import rows
from guided_jax.models.transformer import FREQUENCIES, NORM_EPSILON, dense, modulation, position_table


class MMDiT(nn.Module):
    """velocity = net.apply(params, x, t, context, pooled); params = net.init(key, x, t, context, pooled).

    sample_size: side of the latents that the positions count from. positions: patches along a side of the largest latent;
        smaller ones have the middle of the table of positions, which is a parameter, as the published weights hold it.
    in_channels, out_channels: of x and of the output. patch_size: side of the squares of pixels that become one token.
    hidden_size, depth, num_heads: of the blocks. qk_norm: whether q and k are divided by their magnitude.
    context_dim, pooled_dim: widths of the text and of the pooled text.
    skip_blocks: left out, both streams pass unchanged, numbers or names as "blocks_7": the bad model of skip-layer guidance
        ([STG]).
    dtype: of the computation; norms, softmax, embeddings, the last layer and the output are float32.
    remat, remat_keep, attention_kernel: as of `models.UNet`.

    >>> import jax
    >>> net = MMDiT(8, positions=6, hidden_size=32, depth=2, num_heads=2, context_dim=24, pooled_dim=20)
    >>> x, t, context, pooled = jnp.zeros((5, 8, 8, 16)), jnp.zeros(5), jnp.zeros((5, 77, 24)), jnp.zeros((5, 20))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x, t, context, pooled)
    >>> jax.eval_shape(net.apply, params, x, t, context, pooled).shape
    (5, 8, 8, 16)
    """

    sample_size: int = 128
    positions: int = 192
    in_channels: int = 16
    out_channels: int = 16
    patch_size: int = 2
    hidden_size: int = 1536
    depth: int = 24
    num_heads: int = 24
    qk_norm: bool = False
    context_dim: int = 4096
    pooled_dim: int = 2048
    skip_blocks: Sequence[str | int] = ()
    dtype: Any = jnp.float32
    remat: bool = False
    remat_keep: str = "nothing"
    attention_kernel: str = "plain"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        context: Float[Array, "..."],
        pooled: Float[Array, "..."],
    ) -> Float[Array, "*batch h w {self.out_channels}"]:
        """Return the velocity, noise - data, float32.

        x: any number of batch axes, none included. t: 1000 times the share of the noise, one per example or a scalar.
        context: (tokens, context_dim) of each example, or of all. pooled: likewise (pooled_dim,). ValueError for shapes and
        blocks that do not fit.
        """
        batch = x.shape[:-3]
        c = nn.silu(self._condition(t, pooled, batch))
        x = self._embed(x)
        y = rows(context, batch, 2, "context", self.context_dim).astype(self.dtype)[
            ..., None, :, :
        ]  # one row of pixels
        y = dense(y, self.hidden_size, "context_embedder", self.dtype)
        for i in self._blocks():
            last = i == self.depth - 1
            x, y = remat(self, JointBlock)(
                self.num_heads, self.qk_norm, last, self.dtype, kernel(self.attention_kernel), name=f"blocks_{i}"
            )(x, y, c)
        scale, shift = modulation(c, 2, name="norm_out")
        x = layer_norm(x.astype(jnp.float32), NORM_EPSILON) * (1 + scale) + shift
        x = dense(x, self.patch_size**2 * self.out_channels, "proj_out", init=nn.initializers.zeros)
        return from_patches(x, self.patch_size)

    def _condition(self, t: Any, pooled: Any, batch: tuple[int, ...]) -> Float[Array, "*batch d"]:
        """MLP(t) + MLP(pooled), float32."""
        times = timestep_embedding(per_example(t, batch, "t"), FREQUENCIES)
        pooled = rows(pooled, batch, 1, "pooled", self.pooled_dim).astype(jnp.float32)
        hidden = [dense(each, self.hidden_size, f"{name}_0") for name, each in (("time", times), ("pooled", pooled))]
        of_time, of_text = (nn.silu(each) for each in hidden)
        return dense(of_time, self.hidden_size, "time_2") + dense(of_text, self.hidden_size, "pooled_2")

    def _embed(self, x: Array) -> Array:
        """Return the patches with the middle of the table of positions, one pixel each."""
        if x.shape[-1] != self.in_channels:
            raise ValueError(f"the network takes {self.in_channels} channels and was given {x.shape[-1]}.")
        h = dense(to_patches(x.astype(self.dtype), self.patch_size), self.hidden_size, "x_embedder", self.dtype)
        shape, most = (self.positions, self.positions, self.hidden_size), self.positions * self.patch_size
        if max(h.shape[-3:-1]) > self.positions:
            raise ValueError(f"x is {x.shape[-3]}x{x.shape[-2]}; the network has positions for {most}x{most} at most.")
        base = self.sample_size // self.patch_size
        table = self.param("positions", lambda key: position_table(*shape[:2], base, shape[2]).reshape(1, -1, shape[2]))
        first = [(self.positions - side) // 2 for side in h.shape[-3:-1]]
        (top, left), (height, width) = first, h.shape[-3:-1]
        middle = table.reshape(shape)[top : top + height, left : left + width].astype(self.dtype)
        return h + middle.reshape((1,) * (h.ndim - 3) + middle.shape)

    def _blocks(self) -> list[int]:
        """Return the numbers of the blocks that are applied; all of them while the network is initialised."""
        names = [f"blocks_{i}" for i in range(self.depth)]
        skipped = [block_name(block) for block in self.skip_blocks]
        if wrong := [name for name in skipped if name not in names]:
            raise ValueError(f"skip_blocks has {', '.join(wrong)}, but the network has {', '.join(names)}.")
        return [i for i, name in enumerate(names) if self.is_initializing() or name not in skipped]


class JointBlock(nn.Module):
    """x, y += gate_1 attention(of both), += gate_2 mlp(...), with layer norms that c scales and shifts, each its own.

    last: return y as it is, for nobody reads it. attention: (q, k, v, size) -> attended, None for `blocks.attend`.
    """

    num_heads: int
    qk_norm: bool = False
    last: bool = False
    dtype: Any = jnp.float32
    attention: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w d"], y: Float[Array, "*batch 1 length d"], c: Float[Array, "*batch d"]
    ) -> tuple[Float[Array, "*batch h w d"], Float[Array, "*batch 1 length d"]]:
        """x: one pixel for each patch. y: one for each token of the text. c: through the activation, float32."""
        shift, scale, *of_x = modulation(c, 6, self.dtype, "norm1")
        if self.last:
            (scale_y, shift_y), of_y = modulation(c, 2, self.dtype, "norm1_context"), []
        else:
            shift_y, scale_y, *of_y = modulation(c, 6, self.dtype, "norm1_context")
        parts_x = self._parts(layer_norm(x, NORM_EPSILON) * (1 + scale) + shift, "to_{}", "norm_{}")
        parts_y = self._parts(layer_norm(y, NORM_EPSILON) * (1 + scale_y) + shift_y, "add_{}_proj", "norm_added_{}")
        q, k, v = (jnp.concatenate(pair, axis=-3) for pair in zip(parts_x, parts_y, strict=True))
        attended = attend(q, k, v) if self.attention is None else self.attention(q, k, v, x.shape[-3:-1])
        own = x.shape[-3] * x.shape[-2]
        x = self._add(x, attended[..., :own, :, :], of_x, "to_out_0", "ff")
        return x, y if self.last else self._add(y, attended[..., own:, :, :], of_y, "to_add_out", "ff_context")

    def _parts(self, h: Array, name: str, norm: str) -> list[Array]:
        """Return q, k and v of the tokens, (*batch, length, heads, ch)."""
        *batch, height, width, d = h.shape
        shape = (*batch, height * width, self.num_heads, d // self.num_heads)
        parts = [dense(h, d, name.format(part), self.dtype).reshape(shape) for part in "qkv"]
        if self.qk_norm:
            norms = [nn.RMSNorm(NORM_EPSILON, dtype=jnp.float32, name=norm.format(part)) for part in "qk"]
            parts = [*(each(part).astype(part.dtype) for each, part in zip(norms, parts[:2], strict=True)), parts[2]]
        return parts

    def _add(self, h: Array, attended: Array, vectors: list[Array], out: str, mlp: str) -> Array:
        """h + gate_1 W attended, then + gate_2 mlp(LN(h) (1 + scale_2) + shift_2)."""
        d = h.shape[-1]
        gate_1, shift_2, scale_2, gate_2 = vectors
        h = h + gate_1 * dense(attended.reshape(h.shape), d, out, self.dtype)
        inner = dense(layer_norm(h, NORM_EPSILON) * (1 + scale_2) + shift_2, 4 * d, f"{mlp}_net_0_proj", self.dtype)
        return h + gate_2 * dense(nn.gelu(inner, approximate=True), d, f"{mlp}_net_2", self.dtype)
