"""EDM2's pickles are read to the number, and no pickle makes anything happen: neither a call nor an import nor a file."""

import contextlib
import os
import pickle
import struct
import sys
import types
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from guided_jax.pretrained import edm2, pickles
from tests import latent_golden as golden
from tests import pickle_writer as writer
from tests.pickle_writer import Call, Name, Raw

META, _, GROUPS = golden.read("edm2_uncond")
CONFIG = META["config"]
STATE = {key: array.astype(np.float16) for key, array in GROUPS["sd"].items()}
SMALL = {"unet.enc.a.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "unet.out_gain": np.float16(3)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to be in, where a module lies that leaves a trace when it is imported."""
    (tmp_path / "canary_module.py").write_text("open('executed', 'w').close()\ndef f(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("canary_module", None)


def read(data):
    """Return what `pickles.read` finds in a file of these bytes; nothing may have happened."""
    path = Path("network.pkl")
    path.write_bytes(data)
    before = set(sys.modules)
    try:
        return pickles.read(path)
    finally:
        assert not Path("executed").exists()
        assert set(sys.modules) == before


def refusal(data):
    """Return the error message, which has to be one sentence."""
    with pytest.raises(ValueError, match=r"^network\.pkl .*; nothing of it was executed$") as info:
        read(data)
    assert type(info.value) is ValueError
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# --- files like the published ones -----------------------------------------------------------------------------------


def test_a_file_like_the_published_ones_is_read_and_its_source_is_not_executed():
    found = read(writer.snapshot(writer.network(STATE, CONFIG), encoder=writer.encoder()))
    assert found["class"] == "Precond"
    assert found["config"] == CONFIG
    assert sorted(found["state_dict"]) == sorted(STATE)
    for key, array in found["state_dict"].items():
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array, STATE[key])
    _, params = edm2.load(found["config"], found["state_dict"])
    jax.tree.map(np.testing.assert_array_equal, params, edm2.load(CONFIG, STATE)[1])
    scale, bias = found["encoder"].pop("scale"), found["encoder"].pop("bias")
    assert found["encoder"] == {
        "class": "StabilityVAEEncoder",
        "vae_name": "stabilityai/sd-vae-ft-mse",
        "batch_size": 8,
    }
    np.testing.assert_allclose(scale, 0.5 / np.array([4.17, 4.62, 3.71, 3.28]), rtol=1e-6)
    np.testing.assert_allclose(bias, -np.array([5.81, 3.25, 0.12, -2.15]) * scale, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_other_types_and_positional_arguments(dtype):
    state = {key: array.astype(dtype) for key, array in SMALL.items()}
    parts = {key: writer.tensor(array) for key, array in state.items()}
    ema = writer._nested(parts, "Precond", _init_args=(8, 3), _init_kwargs={"label_dim": 0, "channel_mult": [1, 2]})
    found = read(writer.snapshot(ema))
    assert found["config"] == {"img_resolution": 8, "img_channels": 3, "label_dim": 0, "channel_mult": [1, 2]}
    assert found["encoder"] is None
    for key, array in state.items():
        assert found["state_dict"][key].dtype == dtype
        np.testing.assert_array_equal(found["state_dict"][key], array)


def test_a_part_of_a_storage_is_read():
    whole = np.arange(20, dtype=np.float32)
    part = writer.tensor(whole, shape=(2, 1, 3), strides=(3, 99, 1), offset=5)
    ema = writer._nested({"weight": part}, "Precond", _init_args=(), _init_kwargs={})
    np.testing.assert_array_equal(read(writer.snapshot(ema))["state_dict"]["weight"], whole[5:11].reshape(2, 1, 3))


@pytest.mark.parametrize("protocol", [4, 5])
def test_what_torch_itself_writes(protocol, monkeypatch):
    torch = pytest.importorskip("torch")
    for name, value in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, value)
    net = torch_network(torch)
    data = sys.modules["dnnlib.util"].EasyDict(
        ema=net, encoder=StandIn("StandardRGBEncoder", {"scale": np.float32([1, 2])})
    )
    found = read(pickle.dumps(data, protocol))
    wanted = net.state_dict()
    assert found["config"] == {"img_resolution": 8, "label_dim": 3}
    assert sorted(found["state_dict"]) == sorted(wanted) == ["enc.first.weight", "freqs", "gain"]
    for key, array in found["state_dict"].items():
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array, wanted[key].numpy())
    np.testing.assert_array_equal(found["encoder"]["scale"], [1, 2])


class StandIn:
    """An object that is pickled as torch_utils/persistence.py does."""

    def __init__(self, kind, state):
        self.kind, self.state = kind, state

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": writer.SOURCE,
            "class_name": self.kind,
            "state": self.state,
        }
        return (sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,))


def stand_ins():
    """Return modules of the names that NVIDIA's code has, for pickle to find its functions in."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    found = {name: types.ModuleType(name) for name in names}

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("called")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    found["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    found["dnnlib.util"].EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    return found


def torch_network(torch):
    class Stored(torch.nn.Module):
        def __reduce__(self):
            return StandIn(self.kind, self.__dict__).__reduce__()

    first, net = Stored(), Stored()
    first.kind, net.kind = "MPConv", "Precond"
    first.weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    net.enc = torch.nn.ModuleDict({"first": first})
    net.gain = torch.nn.Parameter(torch.ones([]))
    net.register_buffer("freqs", torch.randn(8))
    net._init_args, net._init_kwargs = (8,), {"label_dim": 3}
    return net.eval().requires_grad_(False).to(torch.float16)


# --- hostile files ---------------------------------------------------------------------------------------------------

WRITE = "open('executed', 'w').close()"


class System:
    def __reduce__(self):
        return os.system, ("touch executed",)


class Setting:
    """Its state is set by __setstate__, which the file does not hold; the class is named."""

    def __setstate__(self, state):
        Path("executed").touch()

    def __getstate__(self):
        return {"a": 1}


# Name -> what Python's own unpickler would execute, and the name that the message has.
LIVE = {
    "os.system": (pickle.dumps(System()), f"{os.system.__module__}.system"),
    "protocol 0": (b"cposix\nsystem\n(S'touch executed'\ntR.", "posix.system"),
    "INST": (pickle.MARK + writer.write("touch executed") + b"iposix\nsystem\n.", "posix.system"),
    "exec": (writer.dump(Call(Name("builtins", "exec"), (WRITE,))), "builtins.exec"),
    "eval": (writer.dump(Call(Name("builtins", "eval"), (WRITE,))), "builtins.eval"),
    "import alone": (writer.dump(Call(Name("canary_module", "f"), ())), "canary_module.f"),
    "nested reduces": (
        writer.dump(
            Call(
                Call(Name("builtins", "getattr"), (Call(Name("builtins", "__import__"), ("os",)), "system")),
                ("touch executed",),
            )
        ),
        "builtins.getattr",
    ),
    "functools.partial": (
        writer.dump(Call(Call(Name("functools", "partial"), (Name("posix", "system"), "touch executed")), ())),
        "functools.partial",
    ),
    "__setstate__": (pickle.dumps(Setting()), f"{__name__}.Setting"),
    "copyreg": (writer.dump(Call(Name("copyreg", "__newobj__"), (Name("canary_module", "f"),))), "copyreg.__newobj__"),
    "a dotted name": (
        writer.dump(Call(Name("collections", "abc.sys.modules.__class__.__base__.__subclasses__"), ())),
        "collections.abc.sys",
    ),
    "numpy's runstring": (
        writer.dump(Call(Name("numpy.testing._private.utils", "runstring"), (WRITE, {}))),
        "numpy.testing._private.utils.runstring",
    ),
    "within a call that is known": (
        writer.snapshot(writer.instance("Precond", Call(Name("builtins", "exec"), (WRITE,)))),
        "builtins.exec",
    ),
    "within the parameters": (
        writer.snapshot(writer.module("Precond", {"w": Call(Name("builtins", "exec"), (WRITE,))}, {})),
        "builtins.exec",
    ),
    "within the arguments": (
        writer.snapshot(writer.network({}, {"label_dim": Call(Name("builtins", "exec"), (WRITE,))})),
        "builtins.exec",
    ),
}


@pytest.mark.parametrize("name", LIVE)
def test_nothing_that_a_file_asks_for_is_executed(name):
    data, named = LIVE[name]
    assert f" asks for {named}" in refusal(data)


@pytest.mark.parametrize(
    "name", ["os.system", "protocol 0", "INST", "exec", "import alone", "nested reduces", "__setstate__"]
)
def test_the_hostile_files_are_hostile(name):
    """Python's own unpickler executes them."""
    pickle.loads(LIVE[name][0])
    assert Path("executed").exists()


@pytest.mark.parametrize(
    "stored",
    [
        ("storage", Call(Name("builtins", "exec"), (WRITE,)), "1234", "cpu", 6, None),
        ("storage", Name("torch", "HalfStorage"), Call(Name("builtins", "exec"), (WRITE,)), "cpu", 6, None),
    ],
)
def test_a_storage_that_is_hostile_itself(stored):
    array = SMALL["unet.enc.a.weight"]
    ema = writer.module(
        "Precond", {"w": writer.tensor(array, storage=writer.payload(array, stored=stored))}, {}, _init_args=()
    )
    assert " asks for builtins.exec" in refusal(writer.snapshot(ema))


def test_the_names_of_the_outside_are_not_known_inside_of_a_storage():
    array = SMALL["unet.enc.a.weight"]
    stored = ("storage", writer.OBJECT, "1234", "cpu", 6, None)
    ema = writer.module("Precond", {"w": writer.tensor(array, storage=writer.payload(array, stored=stored))}, {})
    assert " asks for torch_utils.persistence._reconstruct_persistent_obj" in refusal(writer.snapshot(ema))


DICT = Call(Name("collections", "OrderedDict"), ())
TRICKS = {
    "a dotted name that joins to a known one": (
        Name("torch_utils", "persistence._reconstruct_persistent_obj"),
        "torch_utils.",
    ),
    "an attribute of a known class": (Name("collections", "OrderedDict.__init__"), "collections.OrderedDict.__init__"),
    "a name of no text": (
        Raw(writer.write(1) + writer.write("system") + pickle.STACK_GLOBAL),
        "a name that is no text",
    ),
    "a name with a line end": (Name("os\nsystem", "x"), r"'os\nsystem.x'"),
    "a name of a million letters": (Name("os" * 10**6, "x"), "osos"),
    "a call of a result": (Call(DICT, ()), "a call of what is no function"),
    "a call of a text": (Call("os.system", ("ls",)), "a call of what is no function"),
    "arguments that are no tuple": (Call(Name("collections", "OrderedDict"), ["a"]), "a call of what is no function"),
    "arguments of a dict": (
        Call(Name("collections", "OrderedDict"), ([("a", 1)],)),
        "arguments of collections.OrderedDict",
    ),
    "a state of a function": (
        Raw(writer.write(writer.OBJECT) + writer.write({"__code__": 1}) + pickle.BUILD),
        "a state of",
    ),
    "a state of a dict": (Call(Name("collections", "OrderedDict"), (), {"__class__": 1}), "a state of"),
    "slots of a dict": (Call(Name("collections", "OrderedDict"), (), (None, {"__class__": 1})), "a state of"),
    "OBJ": (Raw(pickle.MARK + writer.write(writer.OBJECT) + pickle.OBJ), "the instruction OBJ"),
    "NEWOBJ_EX": (
        Raw(writer.write(writer.OBJECT) + writer.write(()) + writer.write({}) + pickle.NEWOBJ_EX),
        "NEWOBJ_EX",
    ),
    "EXT1": (Raw(pickle.EXT1 + b"\x01"), "the instruction EXT1"),
    "EXT4": (Raw(pickle.EXT4 + b"\x01\x00\x00\x00"), "the instruction EXT4"),
    "PERSID": (Raw(pickle.PERSID + b"1\n"), "the instruction PERSID"),
    "BINPERSID": (Raw(writer.write("1") + pickle.BINPERSID), "data outside of the pickle"),
    "NEXT_BUFFER": (Raw(pickle.NEXT_BUFFER), "the instruction NEXT_BUFFER"),
    "a key that is no text": ({("a",): 1}, "items of what is no dict with names"),
    "items of a text": (
        Raw(writer.write("a") + writer.write("b") + writer.write(1) + pickle.SETITEM),
        "items of what is no",
    ),
    "items of a function": (
        Raw(writer.write(writer.OBJECT) + writer.write(1) + pickle.APPEND),
        "items of what is no list",
    ),
    "members that are no texts": ({1}, "members of what is no set of names"),
    "a long text": (Raw(pickle.BINUNICODE8 + struct.pack("<Q", 2**40)), "a text of"),
    "too many instructions": (Raw(pickle.NONE * 200_001), "more than 200000 instructions"),
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_refused_by_name(name):
    value, named = TRICKS[name]
    assert f" asks for {named}" in refusal(writer.dump(value)).replace("the instruction NEWOBJ_EX", "NEWOBJ_EX")


def object_array(core="core"):
    kind = Call(Name("numpy", "dtype"), ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    return Call(
        Name(f"numpy.{core}.multiarray", "_reconstruct"),
        (Name("numpy", "ndarray"), (0,), b"b"),
        (1, (1,), kind, False, [1]),
    )


WEIGHT = SMALL["unet.enc.a.weight"]
LARGE = np.zeros(2, np.float32)


def of_tensor(tensor):
    return writer.snapshot(writer.module("Precond", {"w": tensor}, {}, _init_args=(), _init_kwargs={}))


def of_config(**config):
    return writer.snapshot(writer.network(SMALL, config))


MALFORMED = {
    "another class": (
        writer.snapshot(writer.network(SMALL, {}, kind="EDMPrecond")),
        "a network 'EDMPrecond', not Precond",
    ),
    "no network": (writer.dump({"model": None}), "it does not hold a network under the name ema"),
    "a list": (writer.dump([1, 2]), "it does not hold a network"),
    "no arguments": (writer.snapshot(writer.module("Precond", {}, {})), "the arguments of the network"),
    "an argument that is a call": (
        of_config(label_dim=writer.instance("A", {})),
        "the arguments label_dim of the network",
    ),
    "an argument that is an array": (
        of_config(label_dim=writer.numpy_array(LARGE)),
        "the arguments label_dim of the network",
    ),
    "an array of objects": (of_config(label_dim=object_array()), "an array of what are no numbers"),
    "an array cut short": (
        of_config(
            label_dim=writer.numpy_array(LARGE)._replace(
                state=(1, (2**39, 4), writer.numpy_array(LARGE).state[2], False, b"1234")
            )
        ),
        "an array that has not the size",
    ),
    "an encoder that is a text": (writer.snapshot(writer.network(SMALL, {}), encoder="os.system"), "an encoder"),
    "a parameter that is a number": (of_tensor(3), "w is no tensor"),
    "a name of two lines": (writer.snapshot(writer.module("Precond", {"w\nv": 3}, {})), r"'w\nv is no tensor'"),
    "a huge shape": (of_tensor(writer.tensor(WEIGHT, shape=(2**30, 2**30), strides=(2**30, 1))), "has only 6 numbers"),
    "a repeated number": (of_tensor(writer.tensor(WEIGHT, shape=(2**30, 3), strides=(0, 1))), "are not in order"),
    "numbers before the storage": (of_tensor(writer.tensor(WEIGHT, offset=-3)), "w has no shape"),
    "numbers after the storage": (of_tensor(writer.tensor(WEIGHT, offset=1)), "has only 6 numbers"),
    "a storage cut short": (
        of_tensor(writer.tensor(WEIGHT, storage=writer.payload(WEIGHT)[:-1])),
        "not the size that it claims",
    ),
    "a storage that claims more": (
        of_tensor(writer.tensor(WEIGHT, storage=writer.payload(WEIGHT, count=2**50))),
        "not the size",
    ),
    "a storage of other bytes": (of_tensor(writer.tensor(WEIGHT, storage=b"\x00 zip")), "is no instruction"),
    "bytes that are not there": (writer.dump(Raw(pickle.BINBYTES8 + struct.pack("<Q", 2**62))), "are claimed at byte"),
    "a memo of nothing": (writer.dump(Raw(pickle.LONG_BINGET + struct.pack("<I", 2**32 - 1))), "it makes no sense"),
    "an empty stack": (writer.dump(Raw(pickle.TUPLE3)), "it makes no sense"),
    "no mark": (writer.dump(Raw(pickle.TUPLE)), "it makes no sense"),
    "another file": (b"version 1 of something", "is no instruction"),
    "an empty file": (b"", "are claimed at byte 0 of 0"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(name):
    data, message = MALFORMED[name]
    assert message in refusal(data)


def test_depth_is_no_danger():
    deep = Raw(pickle.EMPTY_TUPLE + pickle.TUPLE1 * 20_000)
    assert "does not hold a network" in refusal(writer.dump(deep))
    assert "the arguments label_dim" in refusal(of_config(label_dim=deep))
    modules = {}
    for _ in range(40):
        modules = {"a": writer.module("A", {}, modules)}
    assert "is none" in refusal(writer.snapshot(writer.module("Precond", {}, modules)))


def test_a_module_within_itself_is_refused():
    """A module dict that the memo gives to itself: its state comes after it."""
    made = writer.write(Call(Name("torch.nn.modules.container", "ModuleDict"), (), new=True)) + pickle.MEMOIZE
    state = {"_modules": {"again": Raw(pickle.BINGET + b"\x00")}}
    cycle = Raw(made + writer.write(state) + pickle.BUILD)
    assert "is none" in refusal(
        writer.snapshot(writer.module("Precond", {}, {"a": cycle}, _init_args=(), _init_kwargs={}))
    )


def test_any_damage_is_one_sentence_or_does_no_harm():
    """Cut anywhere, or with any byte changed."""
    data = writer.snapshot(writer.network(SMALL, {"label_dim": 0}), encoder=writer.encoder())
    rng = np.random.default_rng(0)
    for end in range(0, len(data) - 1, 61):
        refusal(data[:end])
    for place in rng.integers(0, len(data), 200):
        changed = bytearray(data)
        changed[place] = rng.integers(256)
        with contextlib.suppress(ValueError):  # a changed number is no mistake
            dict(read(bytes(changed))["state_dict"])


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"there is no file a\.pkl"):
        pickles.read("a.pkl")
    Path("network.pkl").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        pickles.read("network.pkl")
