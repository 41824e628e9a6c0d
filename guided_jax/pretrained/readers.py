"""Readers of files of weights, one tensor at a time; nothing in a file is ever executed."""

import argparse
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from guided_jax import extras
from guided_jax.pretrained import weight_files
from guided_jax.storage import npz

TORCH = (".pt", ".pth", ".bin", ".ckpt")
FORMATS = (".npz", ".safetensors", *TORCH, ".index.json")
ENTRIES = ("ema", "model", "state_dict")  # of a torch file with several, the first there is the one to sample with
POINTER = b"version https://git-lfs"  # the first bytes of the text that Git keeps in place of a large file


class Tensors(Mapping[str, np.ndarray]):
    """Mapping name -> array; each array is read on access and not kept."""

    def __init__(self, names: Mapping[str, Any] | list[str], read: Callable[[str], np.ndarray]):
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


def read_state_dict(path: str | Path, entry: str | None = None) -> Mapping[str, np.ndarray]:
    """Return the mapping torch key -> array of a .npz, .safetensors or torch file, or of shards by their index.

    Arrays have the type of the file: bfloat16 is that of ml_dtypes. A torch file (.pt, .pth, .bin, .ckpt) takes the package
    torch (extra "weights"), which reads tensors alone (weights_only).

    Args:
        path: the file; for shards their index, such as model.safetensors.index.json. `weight_files.find_weights` finds
            either in a folder.
        entry: which state_dict of a torch file with several; if not given, the first there of "ema", "model" and
            "state_dict".

    FileNotFoundError, also for a shard; ModuleNotFoundError without torch; ValueError for a file that is none of these, is
    cut short or damaged, lacks the entry, or holds pickled objects or numbers in 8 bits.
    """
    path = Path(path)
    readers = {".npz": _npz, ".safetensors": _safetensors, ".json": _sharded}
    if path.suffix not in (*readers, *TORCH) or (path.suffix == ".json" and not weight_files.is_index(path)):
        raise ValueError(f"{path} is none of {', '.join(FORMATS)}; save the weights as one of these")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    refuse_pointer(path)
    if path.suffix in TORCH:
        return _torch(path, entry)
    if entry is not None:
        raise ValueError(f"{path} has no entries; leave entry={entry!r} out, which is for torch files with several")
    return readers[path.suffix](path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the words in the header of a .safetensors file, name -> text; none of a file of another kind or without."""
    if Path(path).suffix != ".safetensors":
        return {}
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def refuse_pointer(path: Path) -> None:
    """Raise ValueError for the text that a clone without Git LFS has in place of the weights."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(f"{path} is a Git LFS pointer and not the weights; fetch them with 'git lfs pull'")


def read_component(folder: str | Path, variant: str | None = None) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Return (its config.json, its weights) of a folder with one network, as the `load` of its family takes them.

    variant: as of `weight_files.find_weights`. FileNotFoundError for a folder without weights; ValueError for one without
    config.json.
    """
    weights = read_state_dict(weight_files.find_weights(folder, variant))
    config = weight_files.read_json(Path(folder) / "config.json")
    if not config:
        raise ValueError(f"{folder} has no config.json, which says what its weights are; download it too.")
    return config, weights


def _sharded(index: Path) -> Mapping[str, np.ndarray]:
    """Return the tensors of all shards. ValueError for a shard without one that the index places there."""
    shard_of = weight_files.read_index(index)
    shards = {path: read_state_dict(path) for path in dict.fromkeys(shard_of.values())}
    lacking = sorted(name for name, path in shard_of.items() if name not in shards[path])
    if lacking:
        raise ValueError(f"{shard_of[lacking[0]]} has no tensor {lacking[0]}, which {index.name} places there")
    return Tensors(shard_of, lambda name: shards[shard_of[name]][name])


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
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # no mapping
    except Exception as error:  # the package has one class for all that is wrong, in another place in each version
        raise ValueError(f"{path} is not a whole .safetensors file ({error}); download it again") from None
    _refuse_small(path, kinds)

    def read(name: str) -> np.ndarray:
        with safetensors.safe_open(path, framework="numpy") as file:  # opened anew: what is mapped would stay in memory
            return file.get_tensor(name)

    return Tensors(kinds, read)


def _refuse_small(path: Path, kinds: Mapping[str, str]) -> None:
    """Raise ValueError for numbers in 8 bits or fewer, which mean nothing without scales. kinds: name -> type."""
    for name, kind in kinds.items():
        if kind.lower().startswith(("f8_", "f6_", "f4", "float8", "float4", "q")):
            raise ValueError(f"{name} of {path} is of type {kind}; take weights in bfloat16, float16 or float32")


def _torch(path: Path, entry: str | None) -> Mapping[str, np.ndarray]:
    torch: Any = extras.require("torch", "weights", f"reading the torch file {path}")
    state = _select(_load(torch, path), path, entry, torch)
    _refuse_small(path, {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items()})
    budget, read_since = path.stat().st_size / 20, 0

    def read(name: str) -> np.ndarray:
        nonlocal state, read_since
        if read_since > budget:  # map the file anew, because pages that were read would stay in memory
            state, read_since = _select(_load(torch, path), path, entry, torch), 0
        read_since += state[name].nbytes
        return _as_numpy(torch, state[name])

    return Tensors(state, read)


def _load(torch: Any, path: Path) -> Any:
    """Return what a torch file holds, of classes only tensors and the Namespace of settings that training scripts add."""
    mapped = zipfile.is_zipfile(path)  # files of before torch 1.6 cannot be mapped
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged, or with more in it than tensors
        held = re.search(r"GLOBAL (\S+)", str(error))  # torch's own text tells how to execute the file
        reason = f"it holds {held[1]}" if held else str(error).partition(". ")[0] or type(error).__name__
        raise ValueError(f"{path} is not a whole torch file of tensors alone ({reason})") from None


def _select(content: Any, path: Path, entry: str | None, torch: Any) -> dict[str, Any]:
    """Return the state_dict of what a torch file holds: the content itself, or one of its entries."""
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is not a state_dict: a name and a tensor for each weight")
    entries = [name for name, value in content.items() if _is_state_dict(value, torch)]
    if entry is None and _is_state_dict(content, torch):
        return content
    wanted = ENTRIES if entry is None else (entry,)
    if found := [name for name in wanted if name in entries]:
        return content[found[0]]
    there = f"its state_dicts are {', '.join(map(str, entries))}" if entries else "it has no entries"
    what = "is not a state_dict, a name and a tensor for each weight" if entry is None else f"has no entry {entry!r}"
    raise ValueError(f"{path} {what}: {there}")


def _is_state_dict(value: Any, torch: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, torch.Tensor) for each in value.values())


def _as_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """Return a copy of the tensor, of the same type, since the file that it is mapped to may change."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()
