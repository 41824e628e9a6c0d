"""The weights as a network in half precision computes with them: rounded once, and not again at every step of a loop."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def rounded(network: Any, params: PyTree, *example: Any) -> PyTree:
    """w -> bfloat16(w) where a layer of the network rounds w at every call; norms, embeddings, float32 layers as they are.

    example: what the network is called with beside the params; only the shapes count. The network multiplies by the same
    numbers; on CPU its output is the same to the bit. XLA leaves the rounding of what a `scan` does not change inside of
    it, which on a GPU is a kernel for each weight and step.
    """
    if jnp.dtype(network.dtype) == jnp.float32:
        return params
    types: dict[tuple[str, ...], Any] = {}

    def note(next_method, args, kwargs, context):
        if isinstance(context.module, (nn.Conv, nn.Dense)):
            types[context.module.path] = context.module.dtype
        return next_method(*args, **kwargs)

    with nn.intercept_methods(note):
        # A function of its own: JAX would find the trace of an earlier `jit(network.apply)` again, and `note` see nothing.
        jax.eval_shape(lambda *given: network.apply(*given), params, *example)

    def leaf(path, weight):
        names = tuple(key.key for key in path[1:-1])  # between "params" and the weight's own
        return weight.astype(types.get(names) or weight.dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)
