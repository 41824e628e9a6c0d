"""A torch state_dict as the params of a Flax module.

    torch  "input_blocks.3.0.in_layers.2.weight" [out, in, kh, kw]
    here   params / input_blocks_3_0 / in_layers_2 / kernel [kh, kw, in, out]

Only names and layouts change: a convolution's axes are moved, a linear layer or a 1x1 convolution is transposed, all else
is copied. `readers.read_state_dict` reads the file.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The last part of a path in a Flax tree -> that of a torch key, where they differ.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def import_params(
    shapes: dict[str, Any], state_dict: Mapping[str, np.ndarray], key_of: Callable[[list[str]], str]
) -> dict[str, Any]:
    """Return the tree of `shapes` filled from `state_dict`, float32. ValueError naming all that does not fit.

    shapes: {"params": tree of arrays or shapes}. state_dict: torch key -> array. key_of: path in the tree -> torch key.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes["params"])
    paths = {key_of(path): (path, leaf) for path, leaf in (([e.key for e in keys], leaf) for keys, leaf in leaves)}
    expected = {key: leaf.shape for key, (_, leaf) in paths.items()}
    # One tensor at a time, so that no more than one is in memory twice.
    arrays = {
        key: _converted(np.asarray(state_dict[key]), leaf.ndim, path[-1] == "kernel")
        for key, (path, leaf) in paths.items()
        if key in state_dict
    }
    if problems := list(_mismatches(expected, arrays, state_dict)):
        raise ValueError("the weights do not fit the configuration: " + "; ".join(problems) + ".")
    return {"params": jax.tree_util.tree_unflatten(structure, [arrays[key] for key in expected])}


def torch_key(path: list[str]) -> str:
    """["Mixed_5b.branch1x1", "conv", "kernel"] -> "Mixed_5b.branch1x1.conv.weight"."""
    *modules, leaf = path
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def from_torch(kernel: np.ndarray, ndim: int) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out] for ndim 4; [out, in, 1...] -> [in, out] for ndim 2; else unchanged."""
    if kernel.ndim == 4 and ndim == 4:
        return kernel.transpose(2, 3, 1, 0)
    if ndim == 2 and kernel.ndim >= 2 and all(side == 1 for side in kernel.shape[2:]):
        return kernel.reshape(kernel.shape[:2]).T
    return kernel


def _converted(array: np.ndarray, ndim: int, kernel: bool) -> jax.Array:
    return jnp.asarray(from_torch(array, ndim) if kernel else array, jnp.float32)


def _mismatches(expected: dict, arrays: dict, state_dict: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield one part of the error message for each kind of mismatch that there is."""
    if missing := sorted(expected.keys() - arrays.keys()):
        yield "missing " + ", ".join(missing)
    if surplus := sorted(state_dict.keys() - expected.keys()):
        yield "surplus " + ", ".join(surplus)
    wrong = [key for key in arrays if arrays[key].shape != expected[key]]
    if wrong:
        shapes = (f"{key} (torch shape {np.shape(state_dict[key])}, here {expected[key]})" for key in wrong)
        yield "misshapen " + ", ".join(shapes)
