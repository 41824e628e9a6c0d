"""Attention by JAX's own kernels, which do not store the weights of all pairs: flash attention with cuDNN."""

from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float


def kernel(name: str) -> partial | None:
    """Return the function (q, k, v, size) -> a_t = sum_s softmax_s(q_t . k_s / sqrt(ch)) v_s, None for name="plain".

    name: "plain", "xla" or "cudnn", which needs an NVIDIA GPU and a network in bfloat16; ValueError without a GPU.
    """
    if name == "plain":
        return None
    if name not in ("xla", "cudnn"):
        raise ValueError(f"there is no attention kernel {name!r}; there is plain, xla, cudnn.")
    if name == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(f"the cudnn kernel needs an NVIDIA GPU and this is a {jax.default_backend()}: choose plain.")
    return partial(attend_fused, implementation=name)


def attend_fused(
    q: Float[Array, "*batch length heads ch"],
    k: Float[Array, "*batch length heads ch"],
    v: Float[Array, "*batch length heads ch"],
    size: tuple[int, int],
    *,
    implementation: Any,
) -> Float[Array, "*batch length heads ch"]:
    """`blocks.attend` by `jax.nn.dot_product_attention`, whose softmax is in float32 too."""
    if implementation == "cudnn" and q.dtype.itemsize != 2:
        raise ValueError(f"the cudnn kernel computes in bfloat16, not in {q.dtype}: give the network dtype bfloat16.")
    flat = [each.reshape(-1, *each.shape[-3:]) for each in (q, k, v)]
    return jax.nn.dot_product_attention(*flat, implementation=implementation).reshape(q.shape)
