"""Files of weights: types, shards, entries; what is wrong with one is said, nothing is executed, memory is bounded."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from guided_jax.pretrained.readers import read_state_dict
from guided_jax.pretrained.weight_files import find_weights

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def shards(tmp_path):
    """A folder with an index and two shards: a and b in one, c in the other."""
    a, b, c = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float16), np.full(3, 7, np.float32)
    save_file({"a": a, "b": b}, tmp_path / FIRST)
    save_file({"c": c}, tmp_path / SECOND)
    write_index(tmp_path, {"a": FIRST, "b": FIRST, "c": SECOND})
    return tmp_path


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": weight_map}))


def write_raw(path, kind, data, shape):
    """Write a .safetensors file of one tensor "w" from its bytes, as the format says: no library writes every type."""
    header = json.dumps({"w": {"dtype": kind, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def refusal(path, **arguments):
    """Return the sentence with which a file is refused; it is one, and names the file."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_state_dict(path, **arguments)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64", "int64"])
def test_a_tensor_keeps_its_type(kind, tmp_path):
    kept = np.array([[1.5, -2.0, 3.0], [0.5, 1e-3, 7.0]], kind)
    names = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}
    write_raw(tmp_path / "w.safetensors", names[kind], kept.tobytes(), [2, 3])
    found = read_state_dict(tmp_path / "w.safetensors")["w"]
    assert found.dtype == kept.dtype
    np.testing.assert_array_equal(found, kept)


def test_a_torch_tensor_keeps_its_type(torch, tmp_path):
    kinds = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32, "int64": np.int64}
    kept = torch.tensor([[1.5, -2.0, 3.0], [0.5, 1e-3, 7.0]])
    parameter = torch.nn.Parameter(kept.bfloat16())
    torch.save({kind: kept.to(getattr(torch, kind)) for kind in kinds} | {"p": parameter.T}, tmp_path / "w.pt")
    found = read_state_dict(tmp_path / "w.pt")
    for name, kind in kinds.items():
        assert found[name].dtype == kind
        np.testing.assert_array_equal(found[name], kept.numpy().astype(kind))
    np.testing.assert_array_equal(found["p"], found["bfloat16"].T)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_numbers_in_eight_bits_are_refused(kind, tmp_path):
    write_raw(tmp_path / "w.safetensors", kind, b"\x38" * 6, [2, 3])
    assert f"is of type {kind}; take weights in bfloat16" in refusal(tmp_path / "w.safetensors")


def test_torch_numbers_in_eight_bits_are_refused(torch, tmp_path):
    torch.save({"w": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "w.pt")
    assert "is of type float8_e4m3fn" in refusal(tmp_path / "w.pt")


# --- shards ----------------------------------------------------------------------------------------------------------


def test_shards_are_read_as_one(shards):
    found = read_state_dict(shards / INDEX)
    assert list(found) == ["a", "b", "c"]
    assert len(found) == 3
    np.testing.assert_array_equal(found["a"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert found["b"].dtype == np.float16
    np.testing.assert_array_equal(found["c"], np.full(3, 7, np.float32))
    with pytest.raises(KeyError):
        found["d"]


def test_a_shard_that_is_missing_is_named(shards):
    (shards / SECOND).unlink()
    assert f"names shards that are not there: {SECOND}" in refusal(shards / INDEX)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_half_a_download_is_refused(size, shards):
    """A file of no bytes, one cut within its header, and ones cut within its numbers."""
    path = shards / FIRST
    path.write_bytes(path.read_bytes()[:size])
    assert "is not a whole .safetensors file" in refusal(path)
    with pytest.raises(ValueError, match="is not a whole"):
        read_state_dict(shards / INDEX)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "sub/w.safetensors", ".."])
def test_a_shard_outside_the_folder_is_not_read(place, shards):
    save_file({"c": np.zeros(3, np.float32)}, shards.parent / "secret.safetensors")
    write_index(shards, {"a": FIRST, "b": FIRST, "c": place})
    assert f"names the shard {place!r}, which is not in its folder" in refusal(shards / INDEX)


def test_a_shard_without_the_tensor_is_named(shards):
    write_index(shards, {"a": FIRST, "b": FIRST, "c": FIRST})
    with pytest.raises(ValueError, match=f"{FIRST} has no tensor c, which {INDEX} places there"):
        read_state_dict(shards / INDEX)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "\x00\xff"])
def test_another_file_is_no_index(text, shards):
    (shards / INDEX).write_text(text, encoding="latin1")
    assert "is not an index of shards" in refusal(shards / INDEX)


def test_a_pointer_of_git_lfs_is_not_the_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "Git LFS pointer" in refusal(path)


# --- folders ---------------------------------------------------------------------------------------------------------

PREFERRED = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    INDEX,
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
]


def test_the_weights_of_a_folder_are_found(tmp_path):
    for name in reversed(PREFERRED):
        (tmp_path / name).touch()
        (tmp_path / "config.json").touch()
        assert find_weights(tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16.bin"],
)
def test_a_variant_is_found_only_by_its_name(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"has no weights, but of fp16$"):
        find_weights(tmp_path)
    assert find_weights(tmp_path, "fp16") == tmp_path / name
    with pytest.raises(FileNotFoundError, match="no weights of variant 'ema', but of fp16"):
        find_weights(tmp_path, "ema")
    (tmp_path / "model.safetensors").touch()
    assert find_weights(tmp_path) == tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="no weights of variant 'ema', but of no variant, fp16"):
        find_weights(tmp_path, "ema")


def test_a_variant_of_shards_is_read(shards):
    (shards / INDEX).rename(shards / "model.safetensors.index.fp16.json")
    assert list(read_state_dict(find_weights(shards, "fp16"))) == ["a", "b", "c"]


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(FileNotFoundError, match=r"has no weights, such as diffusion_pytorch_model.safetensors"):
        find_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_weights(tmp_path / "unet")


# --- torch files -----------------------------------------------------------------------------------------------------


def training_checkpoint(torch, **more):
    """What the training scripts of DiT, SiT and REPA save."""
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    entries = {"model": {"w": torch.ones(2)}, "ema": {"w": torch.full((2,), 2.0)}, "opt": optimizer, "steps": 3}
    return entries | {"args": argparse.Namespace(model="SiT-XL/2", lr=1e-4)} | more


def test_the_average_goes_before_the_model(torch, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(training_checkpoint(torch), path)
    np.testing.assert_array_equal(read_state_dict(path)["w"], [2, 2])
    np.testing.assert_array_equal(read_state_dict(path, entry="model")["w"], [1, 1])
    assert "has no entry 'teacher': its state_dicts are model, ema" in refusal(path, entry="teacher")
    torch.save({"model": {"w": torch.ones(2)}}, path)
    np.testing.assert_array_equal(read_state_dict(path)["w"], [1, 1])
    torch.save({"teacher": {"w": torch.ones(2)}}, path)
    assert "is not a state_dict, a name and a tensor for each weight: its state_dicts are teacher" in refusal(path)
    torch.save({"w": torch.ones(2)}, path)
    assert "has no entry 'ema': it has no entries" in refusal(path, entry="ema")


def test_other_files_have_no_entries(shards):
    assert "leave entry='ema' out" in refusal(shards / FIRST, entry="ema")


@pytest.mark.parametrize("content", [[1, 2], {}, {"w": 3}, "text"])
def test_a_torch_file_of_something_else_is_refused(content, torch, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    assert "is not a state_dict" in refusal(tmp_path / "w.pt")


class Hostile:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_nothing_beside_the_weights_is_executed(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in ({"args": Hostile()}, {"args": argparse.Namespace(model=Hostile())}):
        torch.save(training_checkpoint(torch, **content), tmp_path / "w.pt")
        assert "is not a whole torch file of tensors alone (it holds io.open)" in refusal(tmp_path / "w.pt")
    assert not (tmp_path / "executed").exists()


def test_a_torch_file_cut_short_is_refused(torch, tmp_path):
    path = tmp_path / "w.bin"
    torch.save({"w": torch.ones(1000)}, path)
    for size in (0, 100, 2000):
        path.write_bytes(path.read_bytes()[:size])
        assert "is not a whole torch file" in refusal(path)


def test_a_torch_file_of_the_old_format_is_read(torch, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "w.pth")["w"], [1, 1])


# --- memory ----------------------------------------------------------------------------------------------------------

# Prints the most memory that filling a tree took beyond what the process had, and what it holds at the end, in bytes. Every
# second tensor is a convolution, so both ways of moving axes are taken.
MEASURE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from guided_jax.pretrained import readers, state_dict

path, dtype, count, side = sys.argv[1], jnp.dtype(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def tree(count, side):
    kernels = [(side, side) if i % 2 else (3, 3, side // 3, side // 3) for i in range(count)]
    return {"params": {f"l{i}": {"kernel": jax.ShapeDtypeStruct(each, jnp.float32)} for i, each in enumerate(kernels)}}

def memory(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))

def load(tree, tensors):
    return jax.block_until_ready(state_dict.import_params(tree, tensors, state_dict.torch_key, dtype))

load(tree(2, 3), {"l0.weight": np.zeros((1, 1, 3, 3), np.float32), "l1.weight": np.zeros((3, 3), np.float32)})
if path.endswith(".pt"):
    import torch
    torch.zeros(2).numpy()
tensors = readers.read_state_dict(path)
open("/proc/self/clear_refs", "w").write("5")  # VmHWM counts from here
before = memory("VmRSS")
params = load(tree(count, side), tensors)
print(json.dumps([memory("VmHWM") - before, memory("VmRSS") - before]))
"""


def write_large(path, count, side):
    rng = np.random.default_rng(0)
    shapes = [(side, side) if i % 2 else (side // 3, side // 3, 3, 3) for i in range(count)]
    weights = {f"l{i}.weight": rng.random(shape, np.float32) for i, shape in enumerate(shapes)}
    if path.suffix == ".pt":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)
    else:
        save_file(weights, path)


def measure(path, dtype, count, side):
    """Return (most memory while loading, memory of the params), in sizes of the file."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of a process is read from Linux's /proc")
    if not path.exists():
        write_large(path, count, side)
    arguments = [str(path), dtype, str(count), str(side)]
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return [each / path.stat().st_size for each in json.loads(done.stdout)]


def test_loading_takes_little_more_than_the_file(tmp_path):
    peak, _ = measure(tmp_path / "w.safetensors", "float32", 64, 510)
    assert peak < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_the_memory_of_a_large_file(kind, tmp_path, capsys):
    """A file of 350 MB in 88 tensors: all of it as float32, half of it as bfloat16, and a few tensors beside."""
    path = tmp_path / f"w.{kind}"
    for dtype, most in (("float32", 1.3), ("bfloat16", 0.8)):
        peak, kept = measure(path, dtype, 88, 1023)
        with capsys.disabled():
            print(f"\n{path.stat().st_size / 1e6:.0f} MB {kind} as {dtype}: {kept:.2f} of the file, {peak:.2f} at most")
        assert peak < most
