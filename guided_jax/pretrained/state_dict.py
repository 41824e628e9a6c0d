"""A torch state_dict as the params of a Flax module.

    torch  "input_blocks.3.0.in_layers.2.weight" [out, in, kh, kw]
    here   params / input_blocks_3_0 / in_layers_2 / kernel [kh, kw, in, out]

Only names and layouts change: a convolution's axes are moved, a linear layer is transposed, a convolution that is a linear
layer here (1x1, or one of whole patches) becomes its matrix, all else is copied. `readers.read_state_dict` reads the file.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# The last part of a path in a Flax tree -> that of a torch key, where they differ.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
HALF_PRECISION = 2**-8  # the rounding of numbers up to 1 in bfloat16
Join = Callable[[list[str], list[np.ndarray]], np.ndarray]
Keys = str | tuple[str, ...]  # the torch key of a leaf, or those of several tensors that are joined along their outputs


def variable_shapes(module: nn.Module, *inputs: Any, **named: Any) -> dict[str, Any]:
    """Return the variables of `module.init(key, *inputs, **named)` as shapes; nothing is allocated.

    module: the network, which is traced once for the same inputs. inputs, named: numbers, None, and arrays as
    `jax.ShapeDtypeStruct`.
    """
    return jax.tree.map(lambda leaf: leaf, _trace(module, inputs, tuple(named.items())))  # whose dicts are the caller's


@functools.lru_cache(maxsize=32)
def _trace(module: nn.Module, inputs: tuple, named: tuple) -> dict[str, Any]:
    return jax.eval_shape(module.init, jax.random.key(0), *inputs, **dict(named))


def import_params(
    shapes: dict[str, Any],
    state_dict: Mapping[str, np.ndarray],
    key_of: Callable[[list[str]], Keys],
    dtype: Any = jnp.float32,
    ignored: Callable[[str], bool] = lambda key: False,
    fixed: Mapping[str, Any] | None = None,
    join: Join | None = None,
    exact: Callable[[list[str]], bool] = lambda path: False,
) -> dict[str, Any]:
    """Return the tree of `shapes` filled from `state_dict`. ValueError naming all that does not fit.

    shapes: {"params": tree of arrays or shapes}. state_dict: torch key -> array. key_of: path in the tree -> torch key, or
    the keys of tensors that are joined along their outputs, such as those of q, k and v. dtype: of every leaf. ignored: key
    -> whether a surplus tensor is no mistake. fixed: key -> what the tensor has to be, although no leaf is read from it: an
    array (up to half precision), or the key of another tensor that it repeats. join: (path, tensors) -> the leaf's tensor
    in torch's layout, in place of joining them along their outputs. exact: path -> whether the leaf is always float32.
    """
    fixed = fixed or {}
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes["params"])
    paths = [([each.key for each in path], leaf.shape) for path, leaf in leaves]
    keys = [_as_tuple(key_of(path)) for path, _ in paths]
    wanted = {*fixed, *(key for each in keys for key in each)}
    problems = {
        "missing": sorted(wanted - state_dict.keys()),
        "surplus": sorted(key for key in state_dict.keys() - wanted if not ignored(key)),
    }
    arrays: list[Any] = []
    misshapen: list[str] = []
    for (path, shape), names in zip(paths, keys, strict=True):
        if problems["missing"] and not all(name in state_dict for name in names):
            continue
        # One tensor at a time, so that no more than one is in memory twice.
        found = (join or join_outputs)(path, [np.asarray(state_dict[name]) for name in names])
        found = from_torch(found, len(shape)) if path[-1] == "kernel" else found
        found = np.asarray(found, order="C")  # as jax takes more memory to order a view
        arrays.append(jnp.asarray(found, jnp.float32 if exact(path) else dtype))
        if found.shape != shape:
            misshapen += [f"{name} (torch shape {np.shape(state_dict[name])}, here {shape})" for name in names]
    problems["misshapen"] = misshapen
    problems["different"] = _differences(state_dict, fixed)
    if named := [f"{kind} {', '.join(names)}" for kind, names in problems.items() if names]:
        raise ValueError("the weights do not fit the configuration: " + "; ".join(named) + ".")
    return {"params": jax.tree_util.tree_unflatten(structure, arrays)}


def torch_key(path: list[str]) -> str:
    """["Mixed_5b.branch1x1", "conv", "kernel"] -> "Mixed_5b.branch1x1.conv.weight"."""
    *modules, leaf = path
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def from_torch(kernel: np.ndarray, ndim: int) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out] for ndim 4, [kh kw in, out] for ndim 2; [out, in, 1] -> [in, out] for ndim 2;
    else unchanged.
    """
    if kernel.ndim == 4 and ndim in (2, 4):
        moved = kernel.transpose(2, 3, 1, 0)
        return moved if ndim == 4 else moved.reshape(-1, moved.shape[-1])
    if ndim == 2 and kernel.ndim >= 2 and all(side == 1 for side in kernel.shape[2:]):
        return kernel.reshape(kernel.shape[:2]).T
    return kernel


def join_outputs(path: list[str], tensors: list[np.ndarray]) -> np.ndarray:
    """Return the tensors, all of one shape, joined along their outputs; the first of them where their shapes differ.

    path: is not used, but a `join` of `import_params` is given it.
    """
    fit = len({tensor.shape for tensor in tensors}) == 1
    return np.concatenate(tensors) if fit and tensors[1:] and tensors[0].ndim else tensors[0]


def _differences(state_dict: Mapping[str, np.ndarray], fixed: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the tensors that have to be what `fixed` says."""
    wrong = []
    for key, value in fixed.items():
        copy = isinstance(value, str)
        if key not in state_dict or (copy and value not in state_dict):
            continue
        found, expected = np.asarray(state_dict[key]), np.asarray(state_dict[value] if copy else value)
        if found.shape != expected.shape:
            wrong.append(f"{key} (torch shape {found.shape}, expected {expected.shape})")
        elif not np.allclose(np.float32(found), np.float32(expected), rtol=0, atol=0 if copy else HALF_PRECISION):
            wrong.append(f"{key} (has to be that of {value})" if copy else f"{key} (is not what the network computes)")
    return wrong


def _as_tuple(keys: Keys) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else keys
