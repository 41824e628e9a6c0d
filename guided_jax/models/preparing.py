"""The weights as a network computes with them: rounded and transformed once, and not again at every step of a loop."""

from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from jaxtyping import PyTree

from guided_jax.models.blocks import Conv3x3
from guided_jax.models.ops import winograd


def prepared(network: Any, params: PyTree, *example: Any) -> PyTree:
    """w -> w as its layer rounds it, and a collection "winograd" of G k G^T for the kernels that go by `winograd` on CPU.

    example: what the network is called with beside the params; only the shapes count. The network multiplies by the same
    numbers. XLA leaves inside a `scan` what the scan does not change: in half precision that is a kernel of a GPU for each
    weight and step. The transformed kernels are four times as large as those that the layers then leave alone; so prepare
    again what has changed. What has the collection already is returned as it is.
    """
    if "winograd" in params:
        return params
    layers: dict[tuple[str, ...], tuple[Any, bool]] = {}

    def note(next_method, args, kwargs, context):
        layer = context.module
        if isinstance(layer, Conv3x3) and context.method_name == "__call__":
            layers[layer.path] = layer.dtype, layer.suits_winograd(args[0].shape)
        elif isinstance(layer, (nn.Conv, nn.Dense)):
            layers[layer.path] = layer.dtype, False
        return next_method(*args, **kwargs)

    with nn.intercept_methods(note):
        # A function of its own: JAX would find the trace of an earlier `jit(network.apply)` again, and `note` see nothing.
        jax.eval_shape(lambda *given: network.apply(*given), params, *example)

    found = {}
    for path, weight in traverse_util.flatten_dict(params).items():
        dtype, transforms = layers.get(path[1:-1], (None, False))
        found[path] = weight if dtype in (None, weight.dtype) else weight.astype(dtype)
        if transforms and path[-1] == "kernel":
            found["winograd", *path[1:]] = winograd.transform(weight)
    return traverse_util.unflatten_dict(found)
