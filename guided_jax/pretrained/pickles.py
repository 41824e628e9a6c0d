"""The pickles that EDM2 is published in, read without executing them.

Each holds {"ema": network, "encoder": ..., ...}, where an object is stored as the source text of its class, which NVIDIA's
code executes, with the arguments of its constructor and its attributes. Here the text is passed over: the network is known.
A tensor is a call with its size and the bytes of a file of torch, which is again pickles followed by the numbers.

Source: what torch_utils/persistence.py of NVlabs/edm2 and torch's storages write; `unpickle` reads the pickles.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from guided_jax.pretrained.readers import Tensors, refuse_pointer
from guided_jax.pretrained.unpickle import Blob, Damaged, Global, Record, Refused, read_pickle

OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
MODULES = "torch.nn.modules.container.ModuleDict"
PARAMETER, TENSOR = "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict", "dnnlib.EasyDict")
# NumPy 2 has moved them.
ARRAY, SCALAR, BUFFER = (
    [f"numpy.{core}.{name}" for core in ("core", "_core")]
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
)
NAMES = [OBJECT, MODULES, PARAMETER, TENSOR, STORAGE, *DICTS, *ARRAY, *SCALAR, *BUFFER, "numpy.ndarray", "numpy.dtype"]

STORAGES = {
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of a file of torch before its zip files

NETWORK = "Precond"
POSITIONS = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels")
DEEPEST = 16  # modules within modules
LONGEST_HEAD = 1000  # instructions of each pickle before the numbers of a storage; torch writes 32


class _Place(NamedTuple):
    """Numbers of the file: `shape` of `dtype`, from byte `start` on."""

    dtype: Any
    start: int
    shape: tuple[int, ...]


def read(path: str | Path) -> dict[str, Any]:
    """Return what an EDM2 pickle holds, without executing anything of it.

    {"class": "Precond", "config": its constructor's arguments, "state_dict": torch key -> array, read on access,
    "encoder": {"class": name, and its attributes, such as scale and bias of latents} or None}.

    FileNotFoundError; ValueError for a file that is damaged or holds another network, and for one that asks for anything
    but the data of EDM2, which names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            return _contents(path, file, read_pickle(file, path.stat().st_size, NAMES, DICTS))
    except Refused as error:
        what = f"asks for {_one_line(error)}, which no pickle of EDM2 needs"
    except Damaged as error:
        what = f"is not a whole pickle of EDM2 ({_one_line(error)})"
    raise ValueError(f"{path} {what}; nothing of it was executed")


def _one_line(error: Exception) -> str:
    """Return the message, which may hold names of the file, with its line ends and the like spelt out."""
    message = str(error)
    return message if message.isprintable() else ascii(message)


def _contents(path: Path, file: BinaryIO, data: Any) -> dict[str, Any]:
    network = data.get("ema") if isinstance(data, dict) else None
    kind, attributes = _object(network, "a network under the name ema")
    if kind != NETWORK:
        raise Damaged(f"it holds a network {kind[:80]!r}, not {NETWORK}")
    places = {name: _place(file, tensor, name) for name, tensor in _tensors(network, "", set())}

    def tensor(name: str) -> np.ndarray:
        place = places[name]
        return np.fromfile(path, place.dtype, math.prod(place.shape), offset=place.start).reshape(place.shape)

    config = _config(file, attributes)
    return {"class": kind, "config": config, "state_dict": Tensors(places, tensor), "encoder": _encoder(file, data)}


def _object(record: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the class and the attributes of a stored object. what: it should be, for the message."""
    meta = record.args[0] if _is(record, OBJECT) and len(record.args) == 1 else None
    if (
        not isinstance(meta, dict)
        or not isinstance(meta.get("class_name"), str)
        or not isinstance(meta.get("state"), dict)
    ):
        raise Damaged(f"it does not hold {what}")
    return meta["class_name"], meta["state"]


def _is(record: Any, *names: str) -> bool:
    return isinstance(record, Record) and record.name in names


def _config(file: BinaryIO, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the network was constructed with."""
    args, kwargs = attributes.get("_init_args"), attributes.get("_init_kwargs")
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or len(args) > len(POSITIONS):
        raise Damaged("it does not hold the arguments of the network")
    given = dict(zip(POSITIONS, args, strict=False)) | kwargs
    config = {name: _plain(file, value) for name, value in given.items()}
    if wrong := [name for name, value in config.items() if not _is_setting(value)]:
        raise Damaged(f"the arguments {', '.join(wrong)[:80]} of the network are no numbers")
    return config


def _is_setting(value: Any) -> bool:
    """Return whether it is a number, a text or None, or a list of those."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(item is None or isinstance(item, bool | int | float | str) for item in items)


def _encoder(file: BinaryIO, data: dict[str, Any]) -> dict[str, Any] | None:
    """Return the class and the attributes of what makes latents of pictures, None for none."""
    if data.get("encoder") is None:
        return None
    kind, attributes = _object(data["encoder"], "an encoder under that name")
    plain = {name: _plain(file, value) for name, value in attributes.items() if not name.startswith("_")}
    return {"class": kind} | {
        n: value for n, value in plain.items() if _is_setting(value) or isinstance(value, np.ndarray)
    }


# --- tensors ---


def _tensors(module: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the key and the record of each tensor of a module. seen: ids of the modules before it."""
    state = module.state if _is(module, MODULES) else _object(module, f"a module {prefix[:80]}")[1]
    if not isinstance(state, dict) or id(module) in seen or prefix.count(".") > DEEPEST:
        raise Damaged(f"the module {prefix[:80]} is none")
    seen.add(id(module))
    parts = [state.get(name, {}) for name in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(part, dict) for part in parts):
        raise Damaged(f"the module {prefix[:80]} has no parameters")
    parameters, buffers, modules = parts
    for name, tensor in (*parameters.items(), *buffers.items()):
        if tensor is not None:
            yield f"{prefix}{name}", tensor
    for name, child in modules.items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.", seen)


def _place(file: BinaryIO, tensor: Any, name: str) -> _Place:
    """Return where the numbers of a tensor are, which have to lie in order."""
    if _is(tensor, PARAMETER) and tensor.args:
        tensor = tensor.args[0]
    if not _is(tensor, TENSOR) or len(tensor.args) < 4:
        raise Damaged(f"{name[:80]} is no tensor")
    storage, offset, shape, strides = tensor.args[:4]
    if not _are_sizes((offset,)) or not _are_sizes(shape) or not _are_sizes(strides):
        raise Damaged(f"{name[:80]} has no shape")
    ordered = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if len(strides) != len(shape) or any(a != b and n > 1 for a, b, n in zip(strides, ordered, shape, strict=True)):
        raise Damaged(f"the numbers of {name[:80]} are not in order")
    dtype, start, count = _storage(file, storage, name)
    if offset + math.prod(shape) > count:
        raise Damaged(f"{name[:80]} of shape {shape} has only {count} numbers")
    return _Place(dtype, start + offset * dtype.itemsize, shape)


def _are_sizes(sizes: Any) -> bool:
    return isinstance(sizes, tuple) and len(sizes) <= 8 and all(type(n) is int and 0 <= n < 2**40 for n in sizes)


def _storage(file: BinaryIO, storage: Any, name: str) -> tuple[np.dtype, int, int]:
    """Return the type, the first byte and the count of the numbers of a storage: five pickles, the count, the numbers."""
    blob = storage.args[0] if _is(storage, STORAGE) and len(storage.args) == 1 else None
    if not isinstance(blob, Blob):
        raise Damaged(f"{name[:80]} has no storage")
    end = blob.start + blob.length
    file.seek(blob.start)
    magic, version, system, stored, keys = (
        read_pickle(file, end, ["persistent", *STORAGES], most=LONGEST_HEAD) for _ in range(5)
    )
    told = stored.args[0] if _is(stored, "persistent") else None
    if (magic, version) != (MAGIC, VERSION) or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Damaged(f"the storage of {name[:80]} is none of torch's")
    if not isinstance(told, tuple) or len(told) != 6 or not isinstance(told[1], Global) or told[5] is not None:
        raise Damaged(f"the storage of {name[:80]} is none of torch's")  # told[5]: of a view of another storage
    dtype, start = np.dtype(STORAGES[told[1].name]), file.tell() + 8
    count = int.from_bytes(file.read(8), "little")
    if not isinstance(told[2], str) or keys != [told[2]] or count != told[4] or start + count * dtype.itemsize != end:
        raise Damaged(f"the storage of {name[:80]} has not the size that it claims")
    return dtype, start, count


# --- NumPy ---


def _plain(file: BinaryIO, value: Any) -> Any:
    """Return the array or the number that a record of NumPy describes; all else as it is."""
    if _is(value, *SCALAR) and len(value.args) == 2:
        dtype, data = value.args
        return _numbers(file, dtype, (), data).item()
    if _is(value, *BUFFER) and len(value.args) == 4:
        data, dtype, shape, order = value.args
        return _numbers(file, dtype, shape, data, order)
    if _is(value, *ARRAY) and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, data = value.state
        return _numbers(file, dtype, shape, data, "F" if fortran else "C")
    return value


def _numbers(file: BinaryIO, dtype: Any, shape: Any, data: Any, order: Any = "C") -> np.ndarray:
    """Return an array of numbers, never of objects."""
    name = dtype.args[0] if _is(dtype, "numpy.dtype") and dtype.args else None
    state = dtype.state if name is not None and isinstance(dtype.state, tuple) else ()
    if name not in NUMBERS or state[1:2] not in (("<",), ("|",)) or not isinstance(data, Blob) or not _are_sizes(shape):
        raise Damaged("an array of what are no numbers")
    kind = np.dtype(f"<{name}")
    if data.length != kind.itemsize * math.prod(shape) or order not in ("C", "F"):
        raise Damaged("an array that has not the size that it claims")
    file.seek(data.start)
    return np.frombuffer(file.read(data.length), kind).reshape(shape, order=order)
