import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from guided_jax import data
from guided_jax.storage import images
from tests.kinds import everything, same, take

PREPARE = """
import sys
from guided_jax import data
print(len(data.load("digits", "train", sys.argv[1])), "tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def train(data_dir):
    return data.load("digits", "train", data_dir)


@pytest.mark.slow
def test_two_processes_prepare_the_same_place_without_tensorflow(tmp_path):
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "data")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "1437 False\n"), err
    assert [path.name for path in (tmp_path / "data" / "digits").iterdir()] == ["1.0.0"]


def test_a_faster_process_is_not_disturbed(tmp_path, monkeypatch):
    prepare = data.Digits.download_and_prepare

    def overtaken(builder):
        prepare(data.Digits(data_dir=tmp_path, file_format="array_record"))
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(data.Digits, "download_and_prepare", overtaken)
    assert len(data.load("digits", "test", tmp_path)) == 360


def test_an_interrupted_preparation_leaves_nothing_that_could_be_taken_for_data(tmp_path, monkeypatch):
    def interrupted(self, images, labels, rows):
        yield from list(examples(self, images, labels, rows))[:10]
        raise KeyboardInterrupt

    examples = data.Digits._generate_examples
    with monkeypatch.context() as patch:
        patch.setattr(data.Digits, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.load("digits", "train", tmp_path)
    assert not (tmp_path / "digits" / "1.0.0").exists()
    assert len(data.load("digits", "train", tmp_path)) == 1437


def test_splits_are_the_scans_of_scikit_learn_each_once(train, data_dir):
    test = data.load("digits", "test", data_dir)
    assert (len(train), len(test), train.num_classes, train.image_shape) == (1437, 360, 10, (8, 8, 1))
    pixels, labels = load_digits(return_X_y=True)

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), 64), labels]).tolist()))

    ours = [everything(source) for source in (train, test)]
    image, label = (np.concatenate([part[key] for part in ours]) for key in ("image", "label"))
    assert image.dtype == np.uint8
    # 255 v / 16 is invertible, so equal values mean equal scans; the sorted rows of both splits are those of the set.
    assert rows(np.round(image / 255 * 16).astype(int), label) == rows(pixels.astype(int), labels)
    np.testing.assert_array_equal(np.unique(image), np.floor(np.arange(17) * 255 / 16 + 0.5))
    both = {tuple(row.ravel()) for row in ours[0]["image"]} & {tuple(row.ravel()) for row in ours[1]["image"]}
    assert not both
    assert np.bincount(ours[1]["label"]).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]


def test_class_frequencies_are_those_of_the_split(train):
    counts = np.bincount(everything(train)["label"])
    np.testing.assert_allclose(data.class_frequencies(train), counts / 1437)


def test_a_large_split_is_read_when_it_is_asked_for(train, data_dir, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    lazy = data.load("digits", "train", data_dir)
    rows = np.array([5, 3, 1400])
    for key in ("image", "label"):
        np.testing.assert_array_equal(lazy.read(rows)[key], train.read(rows)[key])
        assert lazy.read(rows)[key].dtype == train.read(rows)[key].dtype
    assert same(take(data.loader(lazy, 32, 0), 3), take(data.loader(train, 32, 0), 3))


def test_wrong_names_and_places_are_refused_in_one_sentence(data_dir, tmp_path):
    with pytest.raises(ValueError, match="no data set called 'digit'; there is digits"):
        data.load("digit", "train", data_dir)
    with pytest.raises(ValueError, match="no split 'valid'; it has test, train"):
        data.load("digits", "valid", data_dir)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"^cannot prepare the data in .*file/below[^\n]*$"):
        data.load("digits", "train", tmp_path / "file" / "below")


def test_batches_are_scaled_images_and_labels(train):
    batch = next(data.loader(train, 16, seed=0, shuffle=False))
    assert batch["image"].shape == (16, 8, 8, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(batch["image"], images.from_uint8(train.read(np.arange(16))["image"]))
    np.testing.assert_array_equal(batch["label"], train.read(np.arange(16))["label"])


def test_every_epoch_has_each_example_once_in_an_order_of_its_own():
    source = data.in_memory(np.zeros((100, 1, 1, 1)), np.arange(100), num_classes=100)

    def epochs(batch_size, seed):
        labels = np.concatenate([b["label"] for b in take(data.loader(source, batch_size, seed), 300 // batch_size)])
        return labels.reshape(3, 100)

    orders = epochs(20, seed=0)
    assert (np.sort(orders) == np.arange(100)).all()
    assert len(np.unique(orders, axis=0)) == 3
    np.testing.assert_array_equal(epochs(30, seed=0), orders)  # batches that straddle epochs change nothing
    assert (epochs(20, seed=1) != orders).any(axis=1).all()


def test_one_pass_for_evaluation(train):
    sizes = [len(b["label"]) for b in data.loader(train, 500, 0, repeat=False, drop_remainder=False)]
    assert sizes == [500, 500, 437]
    assert len(list(data.loader(train, 500, 0, repeat=False))) == 2
    with pytest.raises(ValueError, match="1437 examples do not fill one batch of 2000"):
        data.loader(train, 2000, 0, repeat=False)


def test_half_of_the_images_are_mirrored_and_the_labels_stay(train):
    plain, flipped = (next(data.loader(train, 512, 0, flip=flip)) for flip in (False, True))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(plain["image"], flipped["image"], strict=True)]
    same_image = [np.array_equal(a, b) for a, b in zip(plain["image"], flipped["image"], strict=True)]
    assert all(a or b for a, b in zip(mirrored, same_image, strict=True))
    assert 200 < sum(mirrored) < 312
    np.testing.assert_array_equal(plain["label"], flipped["label"])


def test_position_returns_through_json_in_the_middle_of_an_epoch(train):
    batches = data.loader(train, 128, seed=3, flip=True)
    take(batches, 17)
    position = json.loads(json.dumps(batches.get_state()))
    ahead = take(batches, 5)
    again = data.loader(train, 128, seed=3, flip=True)
    again.set_state(position)
    assert same(take(again, 5), ahead)
    batches.set_state(position)
    assert same(take(batches, 5), ahead)
