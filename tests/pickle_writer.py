"""A writer of pickles for tests: of any names and calls, whether or not they exist here, and of files like EDM2's."""

import pickle
import struct
from typing import Any, NamedTuple

import numpy as np


class Name(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    """function(*args); with `new`, as protocol 2 creates an object; `state` is set on the result unless it is None."""

    function: Any
    args: tuple
    state: Any = None
    new: bool = False


class Raw(NamedTuple):
    """Instructions as they are."""

    code: bytes


def dump(value):
    """Return the pickle of plain values, and of the above within them."""
    return pickle.PROTO + b"\x04" + write(value) + pickle.STOP


def write(value):
    """Return the instructions that put a value on the stack."""
    for kind, writer in WRITERS:
        if isinstance(value, kind):
            return writer(value)
    raise TypeError(type(value))


def _call(call):
    made = write(call.function) + write(call.args) + (pickle.NEWOBJ if call.new else pickle.REDUCE)
    return made if call.state is None else made + write(call.state) + pickle.BUILD


def _int(number):
    if -(2**31) <= number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    digits = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(digits)]) + digits


def _text(text):
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _within(before, items, after):
    return before + pickle.MARK + b"".join(map(write, items)) + after


WRITERS = [
    (Raw, lambda raw: raw.code),
    (Call, _call),
    (Name, lambda name: write(name.module) + write(name.name) + pickle.STACK_GLOBAL),
    (type(None), lambda _: pickle.NONE),
    (bool, lambda value: pickle.NEWTRUE if value else pickle.NEWFALSE),
    (int, _int),
    (float, lambda value: pickle.BINFLOAT + struct.pack(">d", value)),
    (str, _text),
    (bytes, lambda value: pickle.BINBYTES8 + struct.pack("<Q", len(value)) + value),
    (tuple, lambda items: _within(b"", items, pickle.TUPLE)),
    (list, lambda items: _within(pickle.EMPTY_LIST, items, pickle.APPENDS)),
    (dict, lambda items: _within(pickle.EMPTY_DICT, [x for pair in items.items() for x in pair], pickle.SETITEMS)),
    (set, lambda items: _within(pickle.EMPTY_SET, items, pickle.ADDITEMS)),
]

# --- like NVIDIA's and torch's ---

OBJECT = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
SOURCE = "open('executed', 'w').close()\n"  # what NVIDIA's code would execute
STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "bfloat16": "BFloat16Storage"}


def ordered(**items):
    """Return an OrderedDict of items."""
    made = write(Call(Name("collections", "OrderedDict"), ()))
    return Raw(_within(made, [x for pair in items.items() for x in pair], pickle.SETITEMS))


def instance(kind, state, source=SOURCE):
    """Return an object of a class of this name, as torch_utils/persistence.py stores it."""
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": kind, "state": state}
    return Call(OBJECT, (meta,))


def payload(array, count=None, stored=None):
    """Return the bytes of a storage of torch. count: claimed; stored: what to write in place of its description."""
    count = array.size if count is None else count
    told = ("storage", Name("torch", STORAGES[str(array.dtype)]), "1234", "cpu", count, None)
    described = pickle.PROTO + b"\x02" + write(told if stored is None else stored) + pickle.BINPERSID + pickle.STOP
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = dump(0x1950A86A20F9469CFC6C) + dump(1001) + dump(system) + described + dump(["1234"])
    return heads + struct.pack("<q", count) + array.tobytes()


def tensor(array, shape=None, strides=None, offset=0, storage=None):
    """Return a parameter of torch."""
    array = np.asarray(array)
    strides = tuple(step // array.itemsize for step in array.strides) if strides is None else strides
    storage = Call(Name("torch.storage", "_load_from_bytes"), (payload(array) if storage is None else storage,))
    args = (storage, offset, array.shape if shape is None else shape, strides, False, ordered())
    return Call(
        Name("torch._utils", "_rebuild_parameter"),
        (Call(Name("torch._utils", "_rebuild_tensor_v2"), args), False, ordered()),
    )


def module(kind, parameters, modules, **attributes):
    """Return a module of torch; the kind ModuleDict is torch's own, others are NVIDIA's."""
    buffers = {name: parameters[name] for name in parameters if name in ("freqs", "phases")}
    own = {name: value for name, value in parameters.items() if name not in buffers}
    state = {"training": False, "_parameters": ordered(**own), "_buffers": ordered(**buffers)}
    state |= {"_non_persistent_buffers_set": set(), "_forward_hooks": ordered(), "_modules": ordered(**modules)}
    if kind == "ModuleDict":
        return Call(Name("torch.nn.modules.container", "ModuleDict"), (), state, new=True)
    return instance(kind, state | attributes)


def network(state_dict, config, kind="Precond"):
    """Return the network of a state_dict: a module within a module for each dot of a key."""
    return _nested({key: tensor(array) for key, array in state_dict.items()}, kind, _init_args=(), _init_kwargs=config)


def _nested(tensors, kind, **attributes):
    parameters = {key: value for key, value in tensors.items() if "." not in key}
    names = dict.fromkeys(key.partition(".")[0] for key in tensors if "." in key)
    modules = {}
    for name in names:
        inner = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        modules[name] = _nested(inner, "ModuleDict" if name in ("enc", "dec") else "MPConv")
    return module(kind, parameters, modules, **attributes)


def numpy_array(array, core="core"):
    """Return an array of NumPy: as NumPy 1 pickles it, as NumPy 2 does with core="_core"."""
    kind = Call(Name("numpy", "dtype"), (array.dtype.str[1:], False, True), (3, "<", None, None, None, -1, -1, 0))
    function = Name(f"numpy.{core}.multiarray", "_reconstruct")
    return Call(function, (Name("numpy", "ndarray"), (0,), b"b"), (1, array.shape, kind, False, array.tobytes()))


def easy_dict(**items):
    """Return NVIDIA's EasyDict."""
    made = write(Call(Name("dnnlib.util", "EasyDict"), (), new=True))
    return Raw(_within(made, [x for pair in items.items() for x in pair], pickle.SETITEMS))


def encoder():
    """Return the encoder of latents of pictures of 512 pixels."""
    scale = np.float32(0.5) / np.float32([4.17, 4.62, 3.71, 3.28])
    arrays = {"scale": numpy_array(scale), "bias": numpy_array(-np.float32([5.81, 3.25, 0.12, -2.15]) * scale, "_core")}
    state = {"vae_name": "stabilityai/sd-vae-ft-mse", **arrays, "batch_size": 8, "_vae": None, "_init_args": ()}
    return instance("StabilityVAEEncoder", state)


def snapshot(ema, **others):
    """Return a whole file like EDM2's."""
    return dump(
        easy_dict(**{"encoder": None, "dataset_kwargs": easy_dict(path="x"), "loss_fn": None, "ema": ema, **others})
    )
