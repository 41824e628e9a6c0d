"""The encoder of T5, which conditions Stable Diffusion 3, FLUX, PixArt and DeepFloyd: tokens in, a vector for each out.

    x = tokens
    x += attention(norm(x)) with a bias for each distance and no scale,  x += W (gelu(W_0 norm(x)) W_1 norm(x))
    features = norm(x),  norm(x) = x / rms(x) * scale

Sources: [T5] Raffel et al. 1910.10683, sec. 2.1; its version 1.1 has the gates of [GLU] Shazeer 2002.05202.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from guided_jax.checks import check_index
from guided_jax.models.sequence import SelfAttention, activation, keep_mask, mask_bias, small_normal


def distance_bucket(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Return the number of the bucket of the distance j - i, (length, length), int.

    Half of the buckets are for j > i. Of a half, the first half has a distance each, and the others cover the distances up
    to max_distance in equal steps of their logarithm; the last one has all beyond.

    >>> distance_bucket(5, buckets=8, max_distance=4)[0].tolist()
    [0, 5, 6, 7, 7]
    """
    away = np.arange(length)[None] - np.arange(length)[:, None]
    half, distance = buckets // 2, np.abs(away)
    exact = half // 2
    # In float32, whose rounding decides where a step begins.
    steps = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / math.log(max_distance / exact)
    far = exact + (steps.astype(np.float32) * (half - exact)).astype(int)
    return half * (away > 0) + np.where(distance < exact, distance, np.minimum(far, half - 1))


class T5Layer(nn.Module):
    """x += attention(norm(x)), x += W act(W norm(x)), with a second factor W_1 norm(x) where there are gates; no biases."""

    num_heads: int
    head_width: int
    mlp_width: int
    activation: str
    gated: bool
    norm_epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch length width"], bias: Any) -> Float[Array, "*batch length width"]:
        """x: float32, as the output. bias: as of `blocks.attend`."""
        attention = SelfAttention(
            self.num_heads, self.head_width, use_bias=False, scaled=False, dtype=self.dtype, name="attention"
        )
        x = x + attention(rms_norm(self.norm_epsilon, "norm_1")(x).astype(self.dtype), bias)
        h = rms_norm(self.norm_epsilon, "norm_2")(x).astype(self.dtype)
        inner = activation(self.activation)(self._dense(self.mlp_width, "fc0")(h))
        inner = inner * self._dense(self.mlp_width, "fc1")(h) if self.gated else inner
        return x + self._dense(x.shape[-1], "fc2")(inner)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)


class T5Encoder(nn.Module):
    """states = net.apply(params, ids, mask), (*batch, length, width), float32; params = net.init(key, ids).

    width, depth, num_heads, head_width, mlp_width: of the layers; the heads together may be wider than x.
    buckets, max_distance: of `distance_bucket`, whose bias all layers share.
    activation, gated: of the inner layer: "gelu_new" with gates in version 1.1, "relu" without in the first one.
    dtype: of the layers' products; embeddings, norms, softmax and the sums are float32.

    >>> import jax
    >>> net = T5Encoder(vocab_size=50, width=32, depth=2, num_heads=4, head_width=8, mlp_width=64)
    >>> ids = jnp.zeros((5, 20), int)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), ids)
    >>> jax.eval_shape(net.apply, params, ids).shape
    (5, 20, 32)
    """

    vocab_size: int = 32128
    width: int = 512
    depth: int = 6
    num_heads: int = 8
    head_width: int = 64
    mlp_width: int = 2048
    buckets: int = 32
    max_distance: int = 128
    activation: str = "relu"
    gated: bool = False
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "*batch length"], mask: Any = None) -> Float[Array, "*batch length width"]:
        """ids: any number of batch axes, none included, and any length. mask: 1 for the tokens of the text, 0 for those
        that fill it up and that no other looks at; None for all. ValueError for ids outside the vocabulary.
        """
        check_index("id", ids, self.vocab_size)
        arguments = {"embedding_init": small_normal, "dtype": jnp.float32, "name": "token_embedding"}
        x = nn.Embed(self.vocab_size, self.width, **arguments)(ids)
        bias = self._distance_bias(ids.shape[-1])
        bias = bias.reshape((1,) * (ids.ndim - 1) + bias.shape)
        if mask is not None:
            bias = bias + mask_bias(keep_mask(mask, ids.shape)[..., None, :])
        for i in range(self.depth):
            inner = (self.mlp_width, self.activation, self.gated, self.norm_epsilon, self.dtype)
            x = T5Layer(self.num_heads, self.head_width, *inner, name=f"layers_{i}")(x, bias)
        return rms_norm(self.norm_epsilon, "final_norm")(x)

    def _distance_bias(self, length: int) -> Float[Array, "heads {length} {length}"]:
        """Return the number of each head for each distance between two of the tokens."""
        table = nn.Embed(self.buckets, self.num_heads, dtype=jnp.float32, name="distance_bias")
        return jnp.moveaxis(table(jnp.asarray(distance_bucket(length, self.buckets, self.max_distance))), -1, 0)


def rms_norm(epsilon: float, name: str) -> nn.RMSNorm:
    """x / sqrt(mean(x^2) + epsilon) * scale, float32."""
    return nn.RMSNorm(epsilon, dtype=jnp.float32, name=name)
