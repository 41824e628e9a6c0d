"""Weights in the form that a network computes with, rounded and transformed once and not at every step of a loop."""

from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from jaxtyping import PyTree

from guided_jax.models.blocks import Conv3x3
from guided_jax.models.ops import winograd


def prepare_params(network: Any, params: PyTree, *example: Any) -> PyTree:
    """Return the variables with each weight in the dtype of its layer, and a collection "winograd" of G k G^T on CPU.

    params: the network's variables. example: its other arguments, of which only the shapes count. The network computes
    with the same numbers as before. Do this before a loop: XLA does not move the conversion out of a `scan`, which on a GPU
    costs a kernel for each weight and step. The transformed kernels, four times as large, are those of the layers that
    compute by `winograd`, which then ignore the original ones: prepare again after these change. Variables that have the
    collection are returned as they are.
    """
    if "winograd" in params:
        return params
    layers = _find_layers(network, params, *example)
    found = {}
    for path, weight in traverse_util.flatten_dict(params).items():
        dtype, transforms = layers.get(path[1:-1], (None, False))
        found[path] = weight if dtype in (None, weight.dtype) else weight.astype(dtype)
        if transforms and path[-1] == "kernel":
            found["winograd", *path[1:]] = winograd.transform(weight)
    return traverse_util.unflatten_dict(found)


def _find_layers(network: Any, params: PyTree, *example: Any) -> dict[tuple[str, ...], tuple[Any, bool]]:
    """Return path -> (dtype, whether it computes by `winograd`) of the layers that convert their weights."""
    layers: dict[tuple[str, ...], tuple[Any, bool]] = {}

    def note(next_method, args, kwargs, context):
        layer = context.module
        if isinstance(layer, Conv3x3) and context.method_name == "__call__":
            layers[layer.path] = layer.dtype, layer.suits_winograd(args[0].shape)
        elif isinstance(layer, (nn.Conv, nn.Dense)):
            layers[layer.path] = layer.dtype, False
        return next_method(*args, **kwargs)

    with nn.intercept_methods(note):
        # A new function: JAX would reuse the trace of an earlier `jit(network.apply)` and never call `note`.
        jax.eval_shape(lambda *given: network.apply(*given), params, *example)
    return layers
