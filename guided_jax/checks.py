"""Checks of what a caller can get wrong in any function: a key, a number, an index, the output of a network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_key(key: Any) -> None:
    """Raise ValueError for a key that is a number or None: JAX's keys are made by `jax.random.key`."""
    if key is None or isinstance(key, (bool, int, float, np.number)):
        seed = key if isinstance(key, (int, np.integer)) else 0
        raise ValueError(f"key is {key!r}; give a JAX key, such as jax.random.key({seed})")


def check_number(name: str, value: Any, or_function: bool = False) -> None:
    """Raise ValueError unless value is a single number, traced or not.

    name: of the argument, for the message.
    or_function: whether the argument may also be a function of the level.
    """
    allowed = "a number, a traced value or a function of the level" if or_function else "a number or a traced value"
    if value is None or isinstance(value, (str, bytes, list, tuple, dict, set)):
        raise ValueError(f"{name} is {value!r}; give {allowed}")
    if jnp.ndim(value):
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, but is one number for one example; "
            "jax.vmap over the examples gives each its own"
        )


def check_index(name: str, index: Any, size: int) -> None:
    """Raise ValueError for an index outside 0 .. size - 1.

    name: of the argument, for the message.
    index: an int or an array of them. A traced index is not checked here; jax.experimental.checkify.checkify(function,
        errors=checkify.index_checks) reports one that is out of range.
    """
    try:
        values = np.asarray(index)
    except jax.errors.TracerArrayConversionError:
        return
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise ValueError(f"{name} {outside.flat[0]} is out of range; it has to be between 0 and {size - 1}")


def check_output(output: Any, shape: tuple[int, ...], hint: str = "") -> None:
    """Raise ValueError unless the output of a network is one array of this shape. hint: a way out, for the message."""
    if not hasattr(output, "shape"):
        kind = type(output).__name__
        raise ValueError(f"the network returned a {kind}; it has to return one array, of shape {tuple(shape)}")
    if tuple(output.shape) != tuple(shape):
        raise ValueError(f"the network returned shape {output.shape} where {tuple(shape)} was expected{hint}")


def check_tree(output: Any, example: Any, channels: int = 1) -> None:
    """Raise ValueError unless the output of a network is a pytree of arrays like `example`.

    example: a pytree of arrays, or of what has a shape.
    channels: how many times the channels (last axis) of the example each array has.
    """

    def wanted(leaf: Any) -> Any:
        return leaf.shape if channels == 1 else (*leaf.shape[:-1], channels * leaf.shape[-1])

    def found(leaf: Any) -> Any:
        return getattr(leaf, "shape", type(leaf).__name__)

    leaves, structure = jax.tree.flatten(output)
    own: Any = jax.tree.structure(example)
    if own != structure or [*map(found, leaves)] != [*map(wanted, jax.tree.leaves(example))]:
        said, want = jax.tree.map(found, output), jax.tree.map(wanted, example)
        raise ValueError(f"the network returned {said} where {want} was expected")
