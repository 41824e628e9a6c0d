"""Layers of the networks that read text, on tokens (*batch, length, width): attention with a mask, norms, activations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from guided_jax.models.blocks import attend, split_heads

small_normal = nn.initializers.normal(0.02)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x sigmoid(1.702 x)."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "quick_gelu": quick_gelu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


def activation(name: str) -> Callable[[Any], Any]:
    """Return the activation of this name; ValueError for a name that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}; there is {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def mask_bias(allowed: Bool[Array, "*batch length keys"]) -> Float[Array, "*batch 1 length keys"]:
    """0 where a position may be attended to, else the lowest float32, for the logits of all heads; `length` may be 1."""
    return jnp.where(allowed, 0.0, jnp.finfo(jnp.float32).min)[..., None, :, :]


def causal_mask(length: int) -> Bool[Array, "{length} {length}"]:
    """Return whether position i may attend to position j: j <= i."""
    return jnp.tril(jnp.ones((length, length), bool))


def keep_mask(mask: Any, shape: tuple[int, ...]) -> Bool[Array, "*batch length"]:
    """Return the mask of tokens, 1 to keep and 0 to ignore, as bool; all kept for None. ValueError for another shape."""
    if mask is None:
        return jnp.ones(shape, bool)
    if jnp.shape(mask) != shape:
        raise ValueError(f"the mask has shape {jnp.shape(mask)} and the ids {shape}; give one number for each token.")
    return jnp.asarray(mask) != 0


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, float32."""
    return nn.LayerNorm(epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


class SelfAttention(nn.Module):
    """W concat(softmax(q k^T / sqrt(ch) + bias) v) of all heads, with q, k and v linear in x.

    head_width: ch; None for width / num_heads. use_bias: of the linear layers. scaled: whether there is 1 / sqrt(ch).
    """

    num_heads: int
    head_width: int | None = None
    use_bias: bool = True
    scaled: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch length width"], bias: Any = None) -> Float[Array, "*batch length width"]:
        """bias: as of `blocks.attend`. ValueError where the heads do not divide the width."""
        width = x.shape[-1]
        if self.head_width is None and width % self.num_heads:
            raise ValueError(f"a width of {width} cannot be split into {self.num_heads} attention heads.")
        inner = width if self.head_width is None else self.num_heads * self.head_width
        dense = partial(nn.Dense, use_bias=self.use_bias, dtype=self.dtype)
        q, k, v = split_heads(dense(3 * inner, name="qkv")(x), self.num_heads, new_order=True)
        q = q if self.scaled else q * q.shape[-1] ** 0.5  # `attend` divides by it
        return dense(width, name="out")(attend(q, k, v, bias).reshape(*x.shape[:-1], inner))
