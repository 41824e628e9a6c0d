"""The transformer of DiT and SiT: a noisy picture or latent and its time in, a prediction of the same size out.

    x = W patches + positions,  c = silu(MLP(t) + the label's row)
    x += gate_1 attention(LN(x) (1 + scale_1) + shift_1),  x += gate_2 mlp(LN(x) (1 + scale_2) + shift_2), in each block
    output = W (LN(x) (1 + scale) + shift), as patches;  shifts, scales and gates are linear in c

Sources: [DiT] Peebles and Xie 2212.09748; [SiT] Ma et al. 2401.08740, the same network. Guidance by the network itself
reads it after a middle block: [IG] Zhou et al. 2512.24176; or without some of its blocks: [STG] Hyung et al. 2411.18664.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from guided_jax.checks import check_index
from guided_jax.models.blocks import attend, attention_weights, split_heads, timestep_embedding
from guided_jax.models.encoder import from_patches, per_example, remat, to_patches
from guided_jax.models.ops.attention import kernel
from guided_jax.models.ops.norm import layer_norm
from guided_jax.models.perturbation import block_name, check_perturbed, perturbed_blocks

FREQUENCIES = 256  # numbers that the time is first turned into
NORM_EPSILON = 1e-6

small_normal = nn.initializers.normal(0.02)


def dense(x: Float[Array, "..."], features: int, name: str, dtype: Any = jnp.float32, init: Any = None) -> Array:
    """y = x W + b, a submodule of the calling module; W starts as Xavier's uniform unless `init` is given, b at 0."""
    init = nn.initializers.xavier_uniform() if init is None else init
    return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)(x)


def modulation(
    c: Float[Array, "*batch d"], count: int, dtype: Any = jnp.float32, name: str = "modulation"
) -> list[Array]:
    """Return `count` vectors of c's size, linear in c and 0 at first, of shape (*batch, 1, 1, d)."""
    vectors = dense(c.astype(dtype), count * c.shape[-1], name, dtype, nn.initializers.zeros)
    return jnp.split(vectors[..., None, None, :], count, axis=-1)


def position_table(height: int, width: int, base: int, size: int) -> Float[Array, "{height} {width} {size}"]:
    """[sin, cos](column w_i), then [sin, cos](row w_i), w_i = 10000^(-i / (size / 4)), i < size / 4.

    base: patches along a side that the network is made for; those of another number are spread over the same range.
    """
    frequencies = 10_000.0 ** (-np.arange(size // 4) / (size // 4))

    def along(number: int) -> np.ndarray:
        angles = np.outer(np.arange(number) * (base / number), frequencies)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)

    # Two short tables, repeated by the compiled program: the whole one would be a constant of megabytes in it.
    columns, rows = jnp.asarray(along(width))[None], jnp.asarray(along(height))[:, None]
    shape = (height, width, size // 2)
    return jnp.concatenate([jnp.broadcast_to(columns, shape), jnp.broadcast_to(rows, shape)], axis=-1)


class TransformerBlock(nn.Module):
    """x += gate_1 attention(...), x += gate_2 mlp(...), with layer norms that c scales and shifts; the identity at first.

    perturb: as of `blocks.AttentionBlock`. A mutable collection "attention" receives "mass", (*batch, h, w), as there.
    """

    num_heads: int
    mlp_width: int
    norm_epsilon: float = NORM_EPSILON
    dtype: Any = jnp.float32
    perturb: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w d"], c: Float[Array, "*batch d"]) -> Float[Array, "*batch h w d"]:
        """x: one pixel for each patch. c: the condition, through the activation, float32."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation(c, 6, self.dtype)
        x = x + gate_1 * self._attention(layer_norm(x, NORM_EPSILON) * (1 + scale_1) + shift_1)
        h = layer_norm(x, self.norm_epsilon) * (1 + scale_2) + shift_2
        h = nn.gelu(dense(h, self.mlp_width, "fc1", self.dtype), approximate=True)
        return x + gate_2 * dense(h, x.shape[-1], "fc2", self.dtype)

    def _attention(self, x: Array) -> Array:
        *batch, h, w, d = x.shape
        qkv = dense(x, 3 * d, "qkv", self.dtype).reshape(*batch, h * w, 3 * d)
        q, k, v = split_heads(qkv, self.num_heads, new_order=True)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "mass", attention_weights(q, k).mean(-3).sum(-2).reshape(*batch, h, w))
        attended = attend(q, k, v) if self.perturb is None else self.perturb(q, k, v, (h, w))
        return dense(attended.reshape(x.shape), d, "proj", self.dtype)


class Head(nn.Module):
    """W (LN(x) (1 + scale) + shift), float32, 0 at first."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w d"], c: Float[Array, "*batch d"]) -> Float[Array, "*batch h w f"]:
        shift, scale = modulation(c, 2)
        x = layer_norm(x.astype(jnp.float32), NORM_EPSILON) * (1 + scale) + shift
        return dense(x, self.features, "linear", init=nn.initializers.zeros)


class DiT(nn.Module):
    """output = net.apply(params, x, t, label); params = net.init(key, x, t, label).

    input_size: height and width of x; the patches of another size have no positions, unless `stretch_positions` spreads
        them over the same range, as diffusers does.
    in_channels, out_channels: of x and of the output; twice as many for a learned variance.
    patch_size: side of the squares of pixels that become one position, hidden_size numbers.
    depth, num_heads, mlp_ratio: blocks, attention heads, width of the inner layer in units of hidden_size.
    num_classes: None for a network without classes. null_label: one more row, index num_classes, which means "no label".
    drop_variance: return only the first half of the channels, as a SiT does that has twice as many.
    frequency_shift: the frequencies of the time are 10000^(-i / (128 - shift)): 0 in the original, 1 in diffusers.
    norm_epsilon: of the second layer norm of a block: 1e-6 in the original, 1e-5 in diffusers.
    dtype: of the computation; norms, softmax, embeddings, the last layer and the output are float32.
    remat, remat_keep, attention_kernel: as of `models.UNet`.
    perturb, perturb_blocks: the attention of these blocks is replaced (see `models.perturbation`); None: of the middle one.
    skip_blocks: left out, x passes unchanged: the bad model of skip-layer guidance ([STG]).
    exit_block: the output is read after this block: the bad model of internal guidance ([IG]).
    internal_head: the block after which the output has a head of its own, trained as net.clone(exit_block=internal_head);
        after other blocks the last layer reads it.
    both_heads: the outputs of both heads, one after the other along the channels, in one call; XLA merges two calls outside
        of loops only.

    Blocks are named by their number, 0 first, or as "blocks_0". A freshly initialised network returns exactly 0: the
    modulations and heads start at 0, the other matrices as Xavier's uniform, embeddings as normal of std 0.02, biases at 0.

    >>> import jax
    >>> net = DiT(input_size=8, hidden_size=32, depth=2, num_heads=2, num_classes=10)
    >>> x, t, label = jnp.zeros((5, 8, 8, 4)), jnp.zeros(5), jnp.zeros(5, int)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x, t, label)
    >>> jax.eval_shape(net.apply, params, x, t, label).shape
    (5, 8, 8, 4)
    """

    input_size: int = 32
    in_channels: int = 4
    out_channels: int = 4
    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float | int = 4
    num_classes: int | None = None
    null_label: bool = True
    drop_variance: bool = False
    frequency_shift: int = 0
    norm_epsilon: float = NORM_EPSILON
    stretch_positions: bool = False
    dtype: Any = jnp.float32
    remat: bool = False
    remat_keep: str = "nothing"
    attention_kernel: str = "plain"
    perturb: Any = None
    perturb_blocks: Sequence[str | int] | None = None
    skip_blocks: Sequence[str | int] = ()
    exit_block: str | int | None = None
    internal_head: str | int | None = None
    both_heads: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], t: Num[Array, "..."] | float | int, label: Any = None
    ) -> Float[Array, "*batch h w c2"]:
        """output = head(blocks(patches of x with positions)), all conditioned on the time and the label; float32.

        x: any number of batch axes, none included. t: the network's own time, fractional allowed, one per example or a
        scalar. label: in [0, num_classes), one per example or a scalar; num_classes or None for the null label.
        ValueError for sizes, labels, blocks and shapes that do not fit.
        """
        self._check()
        c = nn.silu(self._condition(t, label, x.shape[:-3]))
        h = self._embed(x)
        own, kept = self.internal_head is not None, h
        for i in self._blocks():
            h = self._block(i)(h, c)
            kept = h if i == self._index("internal_head") else kept
        read = "internal_layer" if own and self._index("exit_block") == self._index("internal_head") else "final_layer"
        if self.is_initializing() and own:  # the head that is not read has parameters too
            self._head("final_layer" if read == "internal_layer" else "internal_layer")(h, c)
        output = self._output(self._head(read)(h, c))
        if not self.both_heads or self.is_initializing():
            return output
        return jnp.concatenate([output, self._output(self._head("internal_layer")(kept, c))], axis=-1)

    def _output(self, patches: Array) -> Array:
        output = from_patches(patches, self.patch_size)
        return output[..., : self.out_channels // 2] if self.drop_variance else output

    def _check(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"a hidden_size of {self.hidden_size} cannot be split into {self.num_heads} attention heads and the four "
                "parts of a position; give a multiple of both."
            )
        if self.perturb is not None:
            check_perturbed(self)
        if self.both_heads and (self.internal_head is None or self.exit_block is not None):
            raise ValueError("both_heads is for a network with an internal_head and without an exit_block.")

    def _condition(self, t: Any, label: Any, batch: tuple[int, ...]) -> Array:
        """Return MLP(t) + the label's row, float32."""
        times = timestep_embedding(per_example(t, batch, "t"), FREQUENCIES, shift=self.frequency_shift)
        hidden = nn.silu(dense(times, self.hidden_size, "t_embedder_0", init=small_normal))
        c = dense(hidden, self.hidden_size, "t_embedder_2", init=small_normal)
        return c if self.num_classes is None and label is None else c + self._embed_label(label, batch)

    def _embed_label(self, label: Any, batch: tuple[int, ...]) -> Array:
        if self.num_classes is None:
            raise ValueError("an unconditional network (num_classes=None) takes no label.")
        if label is None and not self.null_label:
            raise ValueError("a class-conditional network needs a label unless it has null_label=True.")
        rows = self.num_classes + self.null_label
        label = self.num_classes if label is None else label
        check_index("label", label, rows)
        embed = nn.Embed(rows, self.hidden_size, embedding_init=small_normal, dtype=jnp.float32, name="y_embedder")
        return embed(per_example(label, batch, "label"))

    def _embed(self, x: Array) -> Array:
        """Return the patches with their positions, one pixel each, in the dtype of the computation."""
        *size, channels = x.shape[-3:]
        own = [self.input_size, self.input_size]
        if channels != self.in_channels or (size != own and not self.stretch_positions):
            raise ValueError(
                f"the network takes {own[0]}x{own[1]} with {self.in_channels} channels and was given {size[0]}x{size[1]} "
                f"with {channels}: resize x, or make the network for that input_size."
            )
        patches = to_patches(x.astype(self.dtype), self.patch_size)
        h = dense(patches, self.hidden_size, "x_embedder", self.dtype)
        base = self.input_size // self.patch_size
        table = position_table(h.shape[-3], h.shape[-2], base, self.hidden_size).astype(self.dtype)
        return h + table.reshape((1,) * (h.ndim - 3) + table.shape)

    def _blocks(self) -> list[int]:
        """Return the numbers of the blocks that are applied; all of them while the network is initialised."""
        skipped = [self._number("skip_blocks", block) for block in self.skip_blocks]
        last = self._index("exit_block")
        if self.is_initializing():
            return list(range(self.depth))
        return [i for i in range(self.depth) if i not in skipped and (last is None or i <= last)]

    def _index(self, field: str) -> int | None:
        block = getattr(self, field)
        return None if block is None else self._number(field, block)

    def _number(self, field: str, block: str | int) -> int:
        names = [f"blocks_{i}" for i in range(self.depth)]
        if block_name(block) not in names:
            raise ValueError(f"{field} has {block!r}, but the network has {', '.join(names)}.")
        return names.index(block_name(block))

    def _block(self, i: int) -> TransformerBlock:
        name = f"blocks_{i}"
        perturbed = self.perturb is not None and name in perturbed_blocks(self)
        perturb = self.perturb if perturbed else kernel(self.attention_kernel)
        width = int(self.hidden_size * self.mlp_ratio)
        return remat(self, TransformerBlock)(self.num_heads, width, self.norm_epsilon, self.dtype, perturb, name=name)

    def _head(self, name: str) -> Head:
        return Head(self.patch_size**2 * self.out_channels, name=name)
