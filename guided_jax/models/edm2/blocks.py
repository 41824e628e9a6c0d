"""The blocks of EDM2, in which activations, weights and updates keep unit magnitude.

Source: [EDM2] Karras et al. 2312.02696, its equation numbers in the docstrings.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from guided_jax.models.blocks import (
    Direction,
    attend,
    attention_weights,
    conv3x3,
    downsample,
    split_heads,
    upsample,
)
from guided_jax.models.ops.norm import along_last

EPSILON = 1e-4  # added to every magnitude that something is divided by
unit_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def normalize(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """x / (1e-4 + rms of x over its channels), in float32."""
    h = x.astype(jnp.float32)
    # The last term is too small for a float32 sum, but for zeros: it gives them the gradient 0 in place of nan.
    rms = jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-30)
    return (h / (EPSILON + rms)).astype(x.dtype)


def mp_silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(x) / 0.596, of unit variance for standard normal x ([EDM2] eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Float[Array, "..."], b: Float[Array, "..."], t: float | int) -> Float[Array, "..."]:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), of unit variance if a and b are and are independent ([EDM2] eq. 88)."""
    return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5


def mp_cat(a: Float[Array, "*batch n"], b: Float[Array, "*batch m"], t: float | int) -> Float[Array, "*batch n+m"]:
    """C [(1 - t) / sqrt(n) a, t / sqrt(m) b] along the channels, C = sqrt((n + m) / ((1 - t)^2 + t^2)) ([EDM2] eq. 103)."""
    n, m = a.shape[-1], b.shape[-1]
    c = ((n + m) / ((1 - t) ** 2 + t**2)) ** 0.5
    return jnp.concatenate([c * (1 - t) / n**0.5 * a, c * t / m**0.5 * b], axis=-1)


def linear(x: Float[Array, "*batch n"], features: int, name: str, dtype: Any = jnp.float32) -> Array:
    """y = x W, a submodule of the calling module; also a 1x1 convolution."""
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=unit_normal, name=name)(x)


class Fourier(nn.Module):
    """sqrt(2) cos(x freqs + phases), float32: features of a number, at frequencies that stay as drawn ([EDM2] eq. 75)."""

    channels: int

    @nn.compact
    def __call__(self, x: Num[Array, "*batch"]) -> Float[Array, "*batch {self.channels}"]:
        freqs = self.param("freqs", nn.initializers.normal(2 * jnp.pi), (self.channels,))
        phases = self.param("phases", nn.initializers.uniform(2 * jnp.pi), (self.channels,))
        freqs, phases = (along_last(each.astype(jnp.float32), x.ndim + 1) for each in (freqs, phases))
        return 2**0.5 * jnp.cos(x.astype(jnp.float32)[..., None] * freqs + phases)


class LabelRows(nn.Module):
    """Row `label` of a table, zeros for the label beyond its rows."""

    rows: int
    features: int

    @nn.compact
    def __call__(self, label: Int[Array, "*batch"]) -> Float[Array, "*batch {self.features}"]:
        table = self.param("kernel", nn.initializers.normal(1.0), (self.rows, self.features))
        found = table[jnp.minimum(label, self.rows - 1)].astype(jnp.float32)
        return jnp.where(label[..., None] < self.rows, found, 0)


class Block(nn.Module):
    """x' = mp_sum(x, conv(mp_silu(conv(mp_silu(x)) (1 + W emb)))), then attention, if any, likewise ([EDM2] fig. 21).

    encoder: change the width first and normalise x over its channels; else change the width of the shortcut alone.
    num_heads: of the attention, 0 for none. balances: t of the two sums. clip: the largest value of x', None for no limit.
    perturb: as of `blocks.AttentionBlock`. A mutable collection "attention" receives "mass", (*batch, h, w), as there.
    """

    channels: int
    encoder: bool
    resample: Direction | None = None
    num_heads: int = 0
    balances: tuple[float | int, float | int] = (0.3, 0.3)
    clip: float | int | None = 256
    dtype: Any = jnp.float32
    plain_convolution: bool = False
    perturb: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"], emb: Float[Array, "*batch e"]
    ) -> Float[Array, "*batch h2 w2 c2"]:
        """emb: the embedding of the noise and the label, float32."""
        options: dict[str, Any] = {"dtype": self.dtype, "plain": self.plain_convolution, "use_bias": False}
        if self.resample:
            x = upsample(x) if self.resample == "up" else downsample(x)
        if self.encoder:
            x = normalize(self._widen(x))
        y = conv3x3(mp_silu(x), self.channels, "conv_res0", **options)
        modulation = (linear(emb, self.channels, "emb_linear") + 1).astype(y.dtype)[..., None, None, :]
        y = conv3x3(mp_silu(y * modulation), self.channels, "conv_res1", **options)
        x = mp_sum(x if self.encoder else self._widen(x), y, self.balances[0])
        if self.num_heads:
            x = mp_sum(x, self._attention(x), self.balances[1])
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)

    def _widen(self, x: Array) -> Array:
        return x if x.shape[-1] == self.channels else linear(x, self.channels, "conv_skip", self.dtype)

    def _attention(self, x: Array) -> Array:
        """Attention over all positions, of q, k and v normalised over their channels."""
        *batch, h, w, c = x.shape
        if c % self.num_heads:
            raise ValueError(f"{c} channels cannot be split into {self.num_heads} attention heads.")
        qkv = linear(x.reshape(*batch, h * w, c), 3 * c, "attn_qkv", self.dtype)
        q, k, v = (normalize(each) for each in split_heads(qkv, self.num_heads, new_order=False))
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "mass", attention_weights(q, k).mean(-3).sum(-2).reshape(*batch, h, w))
        attended = attend(q, k, v) if self.perturb is None else self.perturb(q, k, v, (h, w))
        return linear(attended.reshape(x.shape), c, "attn_proj", self.dtype)
