"""Readers of files of weights, one tensor at a time; nothing in a file is ever executed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import extras
from guided_jax.storage import npz


class Tensors(Mapping[str, np.ndarray]):
    """Mapping name -> array; each array is read on access and not kept."""

    def __init__(self, names: list[str], read: Any):
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_state_dict(path: str | Path) -> Mapping[str, np.ndarray]:
    """Return the mapping torch key -> array of a .npz, .safetensors, .pt or .pth file, float tensors as numpy arrays.

    .pt takes the package torch (extra "weights"), which reads tensors alone (weights_only) and maps the file instead of
    copying it. FileNotFoundError, ModuleNotFoundError without torch, or ValueError for a file that is none of these, is
    damaged, or holds pickled objects.
    """
    path = Path(path)
    readers = {".npz": _npz, ".safetensors": _safetensors, ".pt": _torch, ".pth": _torch}
    if path.suffix not in readers:
        raise ValueError(f"{path} is none of {', '.join(readers)}; save the weights as one of these")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return readers[path.suffix](path)


def _npz(path: Path) -> Mapping[str, np.ndarray]:
    with npz.open_npz(path) as file:
        names = list(file.files)

    def read(name: str) -> np.ndarray:
        with npz.open_npz(path) as file:
            return file[name]

    return Tensors(names, read)


def _safetensors(path: Path) -> Mapping[str, np.ndarray]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    except Exception as error:  # the package has one class for all that is wrong, in another place in each version
        raise ValueError(f"{path} is not a .safetensors file ({error})") from None

    def read(name: str) -> np.ndarray:
        with safetensors.safe_open(path, framework="numpy") as file:  # opened anew: what is mapped would stay in memory
            return file.get_tensor(name)

    return Tensors(names, read)


def _torch(path: Path) -> Mapping[str, np.ndarray]:
    torch: Any = extras.require("torch", "weights", f"reading the torch file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged, of an old format, or with more in it than tensors
        raise ValueError(f"{path} is not a torch file of tensors alone ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state_dict: a name and a tensor for each weight, and nothing else")
    return Tensors(list(state), lambda name: state[name].float().numpy())
