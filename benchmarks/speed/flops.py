"""Floating-point operations of a program, counted in two ways.

`by_torch_rules` counts those of matrix products and convolutions alone, two for each multiplication, as
`torch.utils.flop_counter` does; XLA's own count has the elementwise ones too, and leaves out what a convolution
multiplies with the zeros around a picture.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from benchmarks.speed.sizes import Size, networks


def by_torch_rules(f: Callable, *arguments: Any) -> int:
    """Of matrix products and convolutions of f(*arguments). Give it plain convolutions: of a custom_vjp's two
    gradients both are counted, asked for or not."""
    return _count(jax.make_jaxpr(f)(*arguments).jaxpr)


def by_xla(f: Callable, *arguments: Any) -> int:
    """XLA's cost analysis of f(*arguments), before it optimizes."""
    return round(jax.jit(f).lower(*arguments).cost_analysis()["flops"])


def of_networks(size: Size, count: Callable[..., int]) -> dict[str, int]:
    """For one picture: "unet" forward, "classifier" with its gradient in the picture, "train" the U-Net's gradient."""
    unet, classifier = networks(size, plain_convolution=True, attention_kernel="plain")
    x, t, label = jnp.zeros((1, size.side, size.side, size.channels)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    unet_params = jax.eval_shape(unet.init, jax.random.key(0), x, t)
    classifier_params = jax.eval_shape(classifier.init, jax.random.key(0), x, t)
    gradient = jax.grad(lambda x, params: jnp.sum(classifier.apply(params, x, t)))
    weights = jax.grad(lambda params: jnp.mean(jnp.square(unet.apply(params, x, t, label))))
    return {
        "unet": count(unet.apply, unet_params, x, t, label),
        "classifier": count(gradient, x, classifier_params),
        "train": count(weights, unet_params),
    }


def _count(jaxpr: Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, features = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec[0]
        each = math.prod(kernel) // kernel[features]  # multiplications for one number of the output
        return 2 * math.prod(equation.outvars[0].aval.shape) * each // math.prod(parameters["lhs_dilation"])
    inner = [_count(jaxpr) for jaxpr in _inner(parameters)]
    if name == "cond":
        return max(inner)
    return parameters.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inner(parameters: dict[str, Any]) -> list[Jaxpr]:
    found = []
    for value in parameters.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found
