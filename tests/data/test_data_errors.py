"""Data that is damaged, hostile or not there: each is refused in one sentence, or skipped where that was chosen."""

import gzip
import importlib.util
import logging
import os
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from guided_jax import data
from tests.kinds import IMAGES, LABELS, TensorTiles, idx, make_folder, make_idx, make_npz, noise, png, write


def damage(place):
    """Three damaged files of thirty: empty, cut short, and text."""
    files = sorted((place / "set").glob("*/*.png"))
    for file, content in zip(files[4:7], (b"", files[5].read_bytes()[:-30], b"text"), strict=True):
        file.write_bytes(content)
    return files[4]


@pytest.mark.parametrize("keep", [0, 2**28], ids=["lazy", "kept"])
def test_damaged_files_are_refused_by_name_or_skipped_and_counted(keep, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", keep)
    name, first = make_folder(tmp_path), damage(tmp_path)
    with pytest.raises(ValueError, match=r"is not a picture that can be read .*corrupt='skip'") as error:
        list(data.loader(data.load(name, "train"), 9, seed=0, repeat=False))
    assert str(error.value).startswith(f"{tmp_path}/set/a/") or "a/1" in str(error.value)
    with caplog.at_level(logging.WARNING):
        found = data.load(name, "train", corrupt="skip")
        assert len(list(data.loader(found, 24, seed=0, repeat=False))) == 1
    assert (len(found), len(data.load(name, "test", corrupt="skip"))) == (24, 3)
    assert len(caplog.records) == 1
    assert (
        caplog.records[0].getMessage().startswith(f"3 of 27 pictures are skipped, the first: {first} is not a picture")
    )
    assert data.class_frequencies(found)[0] != data.class_frequencies(found)[1]


def test_a_set_of_damaged_pictures_alone_is_refused(tmp_path):
    write(tmp_path / "a" / "1.png", b"")
    with pytest.raises(ValueError, match="no pictures in this split"):
        data.load(f"folder:{tmp_path}", "train", corrupt="skip")


def test_a_file_that_vanishes_or_may_not_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    found = data.load(make_folder(tmp_path), "train")
    (tmp_path / "set" / "a" / "00.png").unlink()
    with pytest.raises(ValueError, match=r"a/00.png is not a picture that can be read \(No such file"):
        found.read(np.array([0]))


def test_damaged_prepared_data(tmp_path):
    data.load("tfds:encoded_tiles", "train", tmp_path)
    for file in (tmp_path / "encoded_tiles" / "1.0.0").glob("*.array_record*"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises((ValueError, OSError), match=r"encoded_tiles/1.0.0[^\n]*$"):
        data.load("tfds:encoded_tiles", "train", tmp_path, image_size=8)


class Boom:
    """Unpickling this would write a file."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def pickled(file):
    np.savez(file, np.array([Boom()], object), LABELS)


NPZ = {
    "no npz file of arrays": lambda file: file.write_bytes(b"no zip"),
    "cannot read": lambda file: file.unlink(),
    "no images under arr_0 or images; it has pixels": lambda file: np.savez(file, pixels=IMAGES),
    "Object arrays cannot be loaded": pickled,
    "no zip archive": lambda file: file.write_bytes(pickle.dumps(Boom())),
    "float32": lambda file: np.savez(file, IMAGES.astype(np.float32), LABELS),
    r"\(3, 8\)": lambda file: np.savez(file, noise(3, 8), LABELS),
    "with 1 to 4 channels": lambda file: np.savez(file, noise(30, 3, 8, 8), LABELS),
    "30 images and 29 labels": lambda file: np.savez(file, IMAGES, LABELS[:29]),
    "0 images": lambda file: np.savez(file, IMAGES[:0], LABELS[:0]),
    "float64": lambda file: np.savez(file, IMAGES, LABELS / 2),
    "the label 8589934594; labels are class numbers below 1000000": lambda file: np.savez(file, IMAGES, LABELS + 2**33),
    "the label -1": lambda file: np.savez(file, IMAGES, LABELS - 1),
    r"\(30, 1\)": lambda file: np.savez(file, IMAGES, LABELS[:, None]),
    "set.npz is": lambda file: file.write_bytes(file.read_bytes()[:-300]),
    "set.npz is damaged": lambda file: file.write_bytes(file.read_bytes().replace(IMAGES[3].tobytes(), bytes(192))),
}


@pytest.mark.parametrize(("words", "spoil"), NPZ.items(), ids=NPZ)
def test_npz_files_that_are_refused(words, spoil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path)
    spoil(tmp_path / "set.npz")
    with pytest.raises((ValueError, OSError), match=words) as error:
        data.load("npz:set.npz", "train")
    assert f"{tmp_path}/set.npz" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hacked").exists()


IDX_IMAGES, IDX_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"
RAW = idx(IMAGES[:27, :, :, 0])
LIE = bytes((0, 0, 8, 3)) + b"\xff\xff\xff\xff" * 3
IDX = {
    r"no IDX file of bytes in 3 .*\\x08\\x01": (IDX_IMAGES, idx(LABELS.astype(np.uint8))),
    r"begins with b'\\x89PNG'": (IDX_IMAGES, png(noise(2, 2, 1))),
    "holds less than its": (IDX_IMAGES, gzip.compress(RAW[:-1])),
    "holds more than its": (IDX_IMAGES, gzip.compress(RAW + b"\0")),
    "is damaged": (IDX_IMAGES, gzip.compress(RAW)[:-20]),
    "CRC": (IDX_IMAGES, gzip.compress(RAW)[:-8] + bytes(8)),
    r"less than its \(27, 8, 8\)": (IDX_IMAGES, RAW[:-1]),
    r"too short for its \(4294967295, ": (IDX_IMAGES, gzip.compress(LIE)),
    "begins with b''": (IDX_LABELS, b""),
    "27 images and 5 labels": (IDX_LABELS, idx(np.zeros(5, np.uint8))),
}


@pytest.mark.parametrize(("words", "spoiled"), IDX.items(), ids=IDX)
def test_idx_files_that_are_refused(words, spoiled, tmp_path):
    name = make_idx(tmp_path)
    file, content = spoiled
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        data.load(name, "train")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_idx_files(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*train-images-idx3-ubyte, and none"):
        data.load(f"idx:{tmp_path}", "train")
    make_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert data.load(f"idx:{tmp_path}", "train").num_classes == 3
    with pytest.raises(ValueError, match="has no split 'valid'; it has test, train"):
        data.load(f"idx:{tmp_path}", "valid")


TFDS = {
    r"tfds:no_such_set cannot be loaded \(Dataset no_such_set not found\)": ("no_such_set", "train"),
    "cannot be loaded at version 9.9.9": ("digits:9.9.9", "train"),
    "'../up' is no name": ("../up", "train"),
    "'huggingface:mnist' is no name": ("huggingface:mnist", "train"),
    "has no split 'valid'; it has test, train": ("tensor_tiles", "valid"),
    r"cannot read 'train\[x\]'": ("tensor_tiles", "train[x]"),
    "no uint8 image with a class label; its features are sound": ("noises", "train"),
    "is full": ("broken", "train"),
}


class Noises(TensorTiles):
    """A set without pictures."""

    def _info(self):
        features = {"sound": tfds.features.Tensor(shape=(2,), dtype=np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, rows):
        yield 0, {"sound": np.zeros(2, np.float32)}


class Broken(TensorTiles):
    """A set whose preparation fails in its own way."""

    def _split_generators(self, dl_manager):
        raise RuntimeError("the quota is full\nand more")


@pytest.mark.parametrize(("words", "arguments"), TFDS.items(), ids=TFDS)
def test_sets_that_are_refused(words, arguments, tmp_path):
    with pytest.raises((ValueError, OSError), match=words) as error:
        data.load(f"tfds:{arguments[0]}", arguments[1], tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "imagenet2012"])
def test_without_tensorflow_a_set_that_is_not_prepared_is_refused_at_once(name, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == "tensorflow" else find(module))
    with pytest.raises(ValueError, match=r"is not prepared in .*guided-jax\[tf\].*data_dir") as error:
        data.load(f"tfds:{name}", "train", tmp_path)
    assert "\n" not in str(error.value)


WRONG = {
    "no data set called 'cats'; there is digits, emoji, tfds:NAME, folder:PATH, npz:PATH, idx:PATH": {"name": "cats"},
    "no data set called 'folder:'": {"name": "folder:"},
    "no data set called 'tfds'": {"name": "tfds"},
    "there is no folder .*/nothing": {"name": "folder:nothing"},
    "there is no folder .*/set.npz": {"name": "folder:set.npz"},
    "holds no pictures; they end in .jpg": {"name": "folder:empty"},
    "has no split 'valid'; it has test, train": {"split": "valid"},
    "image_size is 0": {"image_size": 0},
    "a random crop has no size; give image_size": {"crop": "random"},
    "channels is 5; a picture has 1 to 4": {"channels": 5},
    r"no class of .*parts has the ten pictures .* without held-out data": {"name": "folder:parts", "split": "test"},
    "holds no .npz files": {"name": "npz:empty"},
}


@pytest.mark.parametrize(("words", "arguments"), WRONG.items(), ids=WRONG)
def test_wrong_arguments_are_refused_in_one_sentence(words, arguments, tmp_path):
    make_npz(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "parts" / "a" / "1.png", png(noise(2, 2, 1)))
    with pytest.raises(ValueError, match=words) as error:
        data.load(**{"name": "npz:set.npz", "split": "train", "data_dir": tmp_path, **arguments})
    assert "\n" not in str(error.value)
