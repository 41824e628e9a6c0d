"""Every kind of data from its name to batches: folders, npz, IDX and TensorFlow Datasets."""

import gzip
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guided_jax import data
from guided_jax.app import experiments
from guided_jax.app import settings as schema
from guided_jax.data import arrays, splits
from tests.kinds import (
    IMAGES,
    LABELS,
    everything,
    idx,
    make_folder,
    make_idx,
    make_named_npz,
    make_npz,
    make_prefixed,
    noise,
    png,
    same,
    take,
    write,
)

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed: pip install 'guided-jax[tf]'"
)
KINDS = {
    "folder": make_folder,
    "prefix": make_prefixed,
    "npz": make_npz,
    "npz by name": make_named_npz,
    "idx": make_idx,
    "tfds encoded": lambda place: "tfds:encoded_tiles",
    "tfds tensor": lambda place: "tfds:tensor_tiles:1.0.0",
}
ROWS = [pytest.param(make, id=name) for name, make in KINDS.items()]
ROWS.append(pytest.param(lambda place: "tfds:raw_tiles", id="tfds image", marks=needs_tensorflow))


def as_set(images, labels):
    return sorted(zip(labels.tolist(), (image.tobytes() for image in images), strict=True))


@pytest.mark.parametrize("make", ROWS)
def test_every_kind_from_its_name_to_batches(make, tmp_path):
    name = make(tmp_path)
    splits = [data.load(name, split, tmp_path, image_size=8) for split in ("train", "test")]
    assert [(len(split), split.num_classes) for split in splits] == [(27, 3), (3, 3)]
    images = IMAGES if "idx" not in name else IMAGES[..., :1]
    read = [everything(split) for split in splits]
    got = (np.concatenate([part[key] for part in read]) for key in ("image", "label"))
    assert as_set(*got) == as_set(images, LABELS)
    assert sorted(read[1]["label"]) == [0, 1, 2]
    np.testing.assert_allclose(data.class_frequencies(splits[0]), [1 / 3] * 3)
    labels = np.concatenate([batch["label"] for batch in take(data.loader(splits[0], 9, seed=1), 3)])
    assert np.bincount(labels).tolist() == [9, 9, 9]


@pytest.mark.parametrize("make", ROWS)
def test_random_crops_and_flips_return_to_their_position(make, tmp_path):
    """From JSON, in the middle of an epoch, with other threads: the same bits; another seed gives others."""
    found = data.load(make(tmp_path), "train", tmp_path, image_size=6, crop="random", channels=4)
    assert found.image_shape == (6, 6, 4)
    batches = data.loader(found, 4, seed=3, flip=True)
    take(batches, 9)
    position = json.loads(json.dumps(batches.get_state()))
    ahead = take(batches, 5)
    for threads in (1, 3):
        again = data.loader(found, 4, seed=3, flip=True, threads=threads)
        again.set_state(position)
        assert same(take(again, 5), ahead)
    assert not same(
        take(data.loader(found, 4, seed=4, flip=True), 1), take(data.loader(found, 4, seed=3, flip=True), 1)
    )


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_the_parts_of_several_processes_make_the_batch(crop, tmp_path):
    found = data.load(make_npz(tmp_path), "train", image_size=6, crop=crop)
    whole = take(data.loader(found, 6, seed=0, flip=True), 3)
    parts = [take(data.loader(found, 6, seed=0, flip=True, share=(i, 3)), 3) for i in range(3)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts, strict=True)
    ]
    assert same(whole, joined)
    with pytest.raises(ValueError, match="batch of 6 cannot be shared equally by 4 processes"):
        data.loader(found, 6, seed=0, share=(0, 4))


def test_random_crops_differ_and_reading_without_draws_is_central(tmp_path):
    """Each crop is a window of its picture; evaluation, which gives no draws, sees the middle one."""
    found = data.load(make_npz(tmp_path), "train", image_size=6, crop="random")
    central = data.load(make_npz(tmp_path), "train", image_size=6)
    assert same([found.read(np.arange(27))], [central.read(np.arange(27))])
    batch = next(data.loader(found, 27, seed=0, shuffle=False))["image"]
    assert (batch != next(data.loader(central, 27, seed=0, shuffle=False))["image"]).any(axis=(1, 2, 3)).sum() > 10


def test_the_order_of_a_folder_is_that_of_the_names_and_not_of_the_disk(tmp_path):
    for name in ("b/2", "a/3", "b/1", "a/x/9", "a/x1", "c/0"):
        write(tmp_path / f"{name}.png", png(np.full((2, 2, 1), int(name[-1]), np.uint8)))
    write(tmp_path / ".hidden.png", b"")
    write(tmp_path / "a" / "._3.png", b"")
    write(tmp_path / "notes.txt", b"")
    (tmp_path / "a" / "x" / "loop").symlink_to(tmp_path)
    found = everything(data.load(f"folder:{tmp_path}", "train"))
    # Folder x before the file x1.png: entries are sorted together, as ADM sorts them.
    assert found["image"][:, 0, 0, 0].tolist() == [3, 9, 1, 1, 2, 0]
    assert found["label"].tolist() == [0, 0, 0, 1, 1, 2]


def test_file_names_begin_with_the_class_as_in_adm(tmp_path):
    """The numbers are ranks among the sorted names of all files; a name without "_" is a class of its own."""
    for name in ("n02_7.JPEG", "deep/n01_3.jpg", "n02_1.Png", "zebra.gif"):
        write(tmp_path / name, png(noise(2, 2, 1)))
    found = data.load(f"folder:{tmp_path}", "train")
    assert (everything(found)["label"].tolist(), found.num_classes) == ([0, 1, 1, 2], 3)


def test_split_folders_share_their_classes(tmp_path):
    for name in ("train/a/1", "train/b/1", "train/c/1", "val/b/1", "val/c/1", "val/c/2"):
        write(tmp_path / f"{name}.png", png(noise(2, 2, 1)))
    name = f"folder:{tmp_path}"
    assert everything(data.load(name, "train"))["label"].tolist() == [0, 1, 2]
    held = data.load(name, "val")
    assert (everything(held)["label"].tolist(), held.num_classes) == ([1, 2, 2], 3)
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        data.load(name, "test")
    write(tmp_path / "val" / "d" / "1.png", png(noise(2, 2, 1)))
    with pytest.raises(ValueError, match="train has no class 'd'"):
        data.load(name, "val")
    write(tmp_path / "truck" / "1.png", png(noise(2, 2, 1)))  # now train is a class like another
    assert data.load(name, "train").num_classes == 3


def test_a_relative_path_begins_at_the_data_directory(tmp_path, monkeypatch):
    make_folder(tmp_path)
    assert len(data.load("folder:set", "train", tmp_path)) == 27
    monkeypatch.chdir(tmp_path)
    assert len(data.load("folder:set", "train")) == 27


def test_without_labels_there_is_one_class(tmp_path):
    for number in range(12):
        write(tmp_path / "set" / f"{number}.png", png(noise(4, 4, 1)))
    with pytest.raises(ValueError, match=r"have no class.*labelled=False"):
        data.load("folder:set", "train", tmp_path)
    np.savez(tmp_path / "set.npz", IMAGES)
    with pytest.raises(ValueError, match=r"has no labels.*labelled=False"):
        data.load("npz:set.npz", "train", tmp_path)
    make_idx(tmp_path)
    for name in ("folder:set", "npz:set.npz", "idx:.", "tfds:tensor_tiles", "digits"):
        found = data.load(name, "train", tmp_path, labelled=False)
        assert found.num_classes == 1
        assert not everything(found)["label"].any()


def test_pictures_of_many_shapes_become_equal_or_are_refused(tmp_path):
    for number, shape in enumerate([(8, 8, 3), (9, 12, 1), (30, 20, 4), (5, 5, 2)]):
        write(tmp_path / f"a_{number}.png", png(noise(*shape)))
    name = f"folder:{tmp_path}"
    for crop in ("centre", "random", "none"):
        found = data.load(name, "train", image_size=8, crop=crop, channels=3)
        assert everything(found)["image"].shape == (4, 8, 8, 3)
    with pytest.raises(ValueError, match=r"a_1.png is 9 x 12 x 1 .*first picture is 8 x 8 x 3; give image_size"):
        data.load(name, "train")
    with pytest.raises(ValueError, match=r"a_1.png is 8 x 8 x 1 .* or channels"):
        data.load(name, "train", image_size=8)


def test_every_tenth_of_each_class_is_held_out():
    labels = np.array([0] * 25 + [1] * 9 + [2] * 10)[np.random.default_rng(0).permutation(44)]
    held = splits.held_out(labels)
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 0, 1]
    assert np.flatnonzero(labels == 0)[[9, 19]].tolist() == np.flatnonzero(held & (labels == 0)).tolist()


def test_npz_of_samples_and_of_split_files(tmp_path):
    make_npz(tmp_path)
    (tmp_path / "parts").mkdir()
    np.savez(tmp_path / "parts" / "train.npz", IMAGES[:20, :, :, 0], LABELS[:20] % 2)
    np.savez(tmp_path / "parts" / "valid.npz", IMAGES[20:, :, :, 0], LABELS[20:])
    found = [data.load("npz:parts", split, tmp_path) for split in ("train", "valid")]
    assert [(len(part), part.num_classes, part.image_shape) for part in found] == [
        (20, 3, (8, 8, 1)),
        (10, 3, (8, 8, 1)),
    ]
    with pytest.raises(ValueError, match="has no split 'test'; it has train, valid"):
        data.load("npz:parts", "test", tmp_path)


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHAPES, st.booleans(), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_arrays_come_back_as_they_were_written(tmp_path, shape, packed, channels, seed):
    image = noise(*shape, *([channels] if channels else []), seed=seed)
    label = np.random.default_rng(seed).integers(0, 9, len(image))
    np.savez(tmp_path / "x.npz", image, label)
    got = arrays.read_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(got[0], image if channels else image[..., None])
    np.testing.assert_array_equal(got[1], label)
    grey = image[..., 0] if channels else image
    content = gzip.compress(idx(grey)) if packed else idx(grey)
    (tmp_path / "x").write_bytes(content)
    np.testing.assert_array_equal(arrays.read_idx(tmp_path / "x", 3), grey)


# TensorFlow Datasets.


def test_prepared_data_is_read_without_tensorflow_and_without_its_builder(tmp_path):
    """By another process, which knows the files alone."""
    data.load("tfds:encoded_tiles", "train", tmp_path)
    program = (
        "import sys; from guided_jax import data; found = data.load('tfds:encoded_tiles', 'train', sys.argv[1], 8);"
        "print(len(found), found.image_shape, found.read(range(27))['label'].max(), 'tensorflow' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert ran.stdout == "27 (8, 8, 3) 2 False\n", ran.stderr
    assert not ran.stderr


def test_slices_and_sizes_of_tfds(tmp_path):
    assert len(data.load("tfds:tensor_tiles", "train[:10]", tmp_path)) == 10
    first = data.load("tfds:encoded_tiles", "train", tmp_path)  # no size asked for: that of the first picture
    assert first.image_shape == (8, 8, 3)
    assert data.load("tfds:encoded_tiles", "train", tmp_path, channels=1).image_shape == (8, 8, 1)


# Experiments.


def test_the_settings_reach_the_pictures(tmp_path):
    """Training crops at random, what is held out is cropped in the middle, and both are of the same classes."""
    make_folder(tmp_path)
    settings = schema.Data("folder:set", tmp_path, image_size=6, crop="random", channels="rgba", held_out="test")
    train, held_out = settings.make(), settings.make(held_out=True)
    assert (len(train), len(held_out), train.image_shape, held_out.image_shape) == (27, 3, (6, 6, 4), (6, 6, 4))
    assert (train.random_crop, held_out.random_crop) == (True, False)
    as_they_are = schema.Data("folder:set", tmp_path).make()
    assert (as_they_are.image_shape, as_they_are.num_classes) == ((8, 8, 3), 3)
    assert schema.Data("folder:set", tmp_path, labelled=False).make().num_classes == 1


def test_rectangles_and_backgrounds_reach_the_pictures(tmp_path):
    for number in range(3):
        write(tmp_path / "set" / "a" / f"{number}.png", png(np.zeros((16, 16, 4), np.uint8)))
    settings = schema.Data("folder:set", tmp_path, image_size=(8, 12), channels="rgb", background=7)
    assert (everything(settings.make())["image"] == np.full((3, 8, 12, 3), 7)).all()
    assert schema.from_dict(json.loads(json.dumps(schema.to_dict(settings))), schema.Data) == settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "leave them out with --data.no-labelled"),
        ({"image_size": 0, "labelled": False}, "--data.image-size is 0"),
        ({"crop": "random", "labelled": False}, "give --data.image-size"),
        ({"held_out": "valid", "labelled": False}, "has no split 'valid'; it has test, train"),
    ],
)
def test_errors_of_data_name_the_options_of_the_command(changes, words, tmp_path):
    np.savez(tmp_path / "set.npz", IMAGES)
    with pytest.raises(ValueError, match=words):
        schema.Data("npz:set.npz", tmp_path, **changes).make(held_out="held_out" in changes)


SHAPES_OF = {"fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "folder": (64, 64, 3), "npz": (32, 32, 3)}


# The others are made in the fast suite by tests/app/test_experiments.py, without a look at the output.
@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(*item, id=item[0], marks=() if item[0] == "npz" else pytest.mark.slow) for item in SHAPES_OF.items()],
)
def test_the_networks_of_an_experiment_fit_its_pictures(name, shape):
    """Shapes alone: nothing is computed."""
    experiment = experiments.load(name)
    unet = experiment.diffusion.network.make(shape[-1], 10, experiment.diffusion.null_label)
    classifier = experiment.classifier.network.make(10)
    x, t, key = jnp.zeros((1, *shape)), jnp.zeros(1), jax.random.key(0)
    made, params = jax.eval_shape(lambda: unet.init_with_output(key, x, t, jnp.zeros(1, jnp.int32)))
    assert made.shape == (1, *shape)
    logits, _ = jax.eval_shape(lambda: classifier.init_with_output(key, x, t))
    assert logits.shape == (1, 10)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 60e6


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_debian_has_it():
    train, test = (data.load(f"idx:{FASHION}", split) for split in ("train", "test"))
    assert (len(train), len(test), train.image_shape, train.num_classes) == (60000, 10000, (28, 28, 1), 10)
    assert np.bincount(everything(test)["label"]).tolist() == [1000] * 10
    assert train.read(np.arange(4))["label"].tolist() == [9, 0, 0, 3]  # ankle boot, two shirts, dress
    batch = next(data.loader(data.load(f"idx:{FASHION}", "test", image_size=32, crop="none", channels=3), 64, 0))
    assert batch["image"].shape == (64, 32, 32, 3)
