"""The text encoder of BERT and MiniLM: tokens in, a vector for each of them and one for the whole text out.

    x = norm(tokens + positions + types)
    x = norm(x + attention(x)),  x = norm(x + W gelu(W x))          in each layer
    sentence = mean(x) / |mean(x)| over the tokens of the text

Sources: [BERT] Devlin et al. 1810.04805; [MiniLM] Wang et al. 2002.10957; [SBERT] Reimers and Gurevych 1908.10084, sec. 3.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from guided_jax.checks import check_index
from guided_jax.models.encoder import per_example
from guided_jax.models.sequence import SelfAttention, activation, keep_mask, layer_norm, mask_bias, small_normal


class BertFeatures(NamedTuple):
    """last: (*batch, length, width), of each token. pooled: (*batch, width), tanh(W x + b) of the first token, or None of a
    network without that layer. sentence: (*batch, width), of length 1, the direction of the mean of the tokens. Float32.
    """

    last: Array
    pooled: Array | None
    sentence: Array


class BertLayer(nn.Module):
    """x = norm(x + attention(x)), x = norm(x + W act(W x))."""

    num_heads: int
    mlp_width: int
    activation: str
    norm_epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch length width"], bias: Any = None) -> Float[Array, "*batch length width"]:
        """x: float32, as the output. bias: as of `blocks.attend`."""
        h = SelfAttention(self.num_heads, dtype=self.dtype, name="attention")(x.astype(self.dtype), bias)
        x = layer_norm(self.norm_epsilon, "norm_1")(x + h)
        h = nn.Dense(self.mlp_width, dtype=self.dtype, name="fc1")(x.astype(self.dtype))
        h = nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(activation(self.activation)(h))
        return layer_norm(self.norm_epsilon, "norm_2")(x + h)


class Bert(nn.Module):
    """features = net.apply(params, ids, mask), `BertFeatures`; params = net.init(key, ids).

    vocab_size, max_length, num_types: rows of the tables of tokens, positions and types.
    width, depth, num_heads, mlp_width, activation: of the layers.
    pooler: whether there is the layer of `pooled`.
    dtype: of the layers' products; embeddings, norms, softmax and the sums are float32.

    >>> net = Bert(vocab_size=50, width=32, depth=2, num_heads=4, mlp_width=64)
    >>> ids = jnp.zeros((5, 20), int)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), ids)
    >>> jax.eval_shape(net.apply, params, ids).sentence.shape
    (5, 32)
    """

    vocab_size: int = 30522
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    max_length: int = 512
    num_types: int = 2
    activation: str = "gelu"
    pooler: bool = True
    norm_epsilon: float = 1e-12
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "*batch length"], mask: Any = None, types: Int[Array, "..."] | int = 0
    ) -> BertFeatures:
        """ids: any number of batch axes, none included. mask: 1 for the tokens of the text, 0 for those that fill it up;
        None for all. types: of each token, or a scalar: 0 of a first text, 1 of a second one. ValueError for ids outside
        the vocabulary and texts that are too long.
        """
        check_index("id", ids, self.vocab_size)
        if ids.shape[-1] > self.max_length:
            raise ValueError(f"the encoder reads {self.max_length} tokens at most, and was given {ids.shape[-1]}.")
        keep = keep_mask(mask, ids.shape)
        x = self._embed(ids, per_example(types, ids.shape, "types"))
        for i in range(self.depth):
            arguments = (self.num_heads, self.mlp_width, self.activation, self.norm_epsilon, self.dtype)
            x = BertLayer(*arguments, name=f"layers_{i}")(x, mask_bias(keep[..., None, :]))
        return BertFeatures(x, self._pool(x), mean_direction(x, keep))

    def _embed(self, ids: Array, types: Array) -> Array:
        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, self.width, embedding_init=small_normal, dtype=jnp.float32, name=name)

        positions = table(self.max_length, "position_embedding")(jnp.arange(ids.shape[-1]))
        x = table(self.vocab_size, "token_embedding")(ids) + table(self.num_types, "type_embedding")(types)
        x = x + positions.reshape((1,) * (ids.ndim - 1) + positions.shape)
        return layer_norm(self.norm_epsilon, "embedding_norm")(x)

    def _pool(self, x: Array) -> Array | None:
        if not self.pooler:
            return None
        return jnp.tanh(nn.Dense(self.width, dtype=jnp.float32, name="pooler")(x[..., 0, :]))


def mean_direction(x: Float[Array, "*batch length width"], keep: Array) -> Float[Array, "*batch width"]:
    """mean / |mean| of the tokens that `keep` is 1 for, (*batch, length)."""
    weights = keep.astype(jnp.float32)[..., None]
    total = (x * weights).sum(-2)  # the mean's direction is that of the sum
    return total * jax.lax.rsqrt(jnp.maximum(jnp.square(total).sum(-1, keepdims=True), 1e-24))
