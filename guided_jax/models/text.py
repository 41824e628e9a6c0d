"""Texts as the condition of a network: tokens of one width, attention to them, and one vector for the whole text.

The functions here are called inside a module's `__call__` and make their layers submodules of it, as those of `encoder`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from guided_jax.models.blocks import attend, dense
from guided_jax.models.ops.norm import group_norm
from guided_jax.models.sequence import layer_norm, mask_bias


class Text(NamedTuple):
    """A text within a network.

    tokens: (*batch, 1 + length, width), a learned one first, which is all that no text has. bias: (*batch, 1, 1, 1 +
    length), of the logits of the attention to them. pooled: (*batch, width), the mean of the tokens.
    """

    tokens: Array
    bias: Array
    pooled: Array


class TextEmbedding(nn.Module):
    """text = net(given): states of a text encoder, or numbers of words, as a `Text`.

    width: of its tokens. num_words: of the vocabulary, which is learned; None for states.

    >>> import jax
    >>> net, states = TextEmbedding(16), jnp.full((3, 5, 8), jnp.nan)  # three empty texts of 5 tokens at most
    >>> params = net.init(jax.random.key(0), states)
    >>> net.apply(params, states).tokens.shape
    (3, 6, 16)
    """

    width: int
    num_words: int | None = None

    @nn.compact
    def __call__(self, given: Num[Array, "..."]) -> Text:
        """given: states (*batch, length, features), NaN where there is no token; or numbers of words (*batch, length),
        integers from 1, 0 where there is no word.
        """
        if self.num_words is None:
            keep = ~jnp.isnan(given[..., 0])
            tokens = dense(jnp.where(keep[..., None], given, 0.0), self.width, "states")
        else:
            keep = given > 0
            init = nn.initializers.normal(1.0)
            tokens = nn.Embed(self.num_words + 1, self.width, embedding_init=init, name="words")(given)
            positions = self.param("positions", nn.initializers.normal(0.1), (given.shape[-1], self.width))
            tokens = tokens + positions.reshape((1,) * (given.ndim - 1) + positions.shape)
        first = self.param("first", nn.initializers.normal(1.0), (self.width,))
        tokens = jnp.concatenate([jnp.broadcast_to(first, (*tokens.shape[:-2], 1, self.width)), tokens], axis=-2)
        tokens = layer_norm(1e-5, "norm")(tokens)
        keep = jnp.pad(keep, [(0, 0)] * (keep.ndim - 1) + [(1, 0)], constant_values=True)
        weights = keep / keep.sum(-1, keepdims=True)
        return Text(tokens, mask_bias(keep[..., None, :]), (tokens * weights[..., None]).sum(-2))


class TextAttention(nn.Module):
    """y = x + W_out attention(q = W norm(x), k and v = W tokens), of every position of the picture; W_out starts at 0."""

    num_heads: int
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"], text: Text) -> Float[Array, "*batch h w c"]:
        """text: `TextEmbedding` of each example."""
        *batch, h, w, c = x.shape
        queries = group_norm(x, self.num_groups, "norm").reshape(*batch, h * w, c)
        q = dense(queries, c, "q", self.dtype).reshape(*batch, h * w, self.num_heads, -1)
        both = dense(text.tokens, 2 * c, "kv", self.dtype)
        k, v = jnp.moveaxis(both.reshape(*both.shape[:-1], 2, self.num_heads, -1), -3, 0)
        attended = attend(q, k, v, text.bias).reshape(queries.shape)
        return x + dense(attended, c, "proj_out", self.dtype, zero=True).reshape(x.shape)
