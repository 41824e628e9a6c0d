"""The same thirty pictures in three classes in every kind of data, twenty-seven to train with: each maker returns the
name to load."""

import gzip
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from guided_jax.data import splits


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(file, "png")
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def everything(found):
    return found.read(np.arange(len(found)))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


IMAGES = noise(30, 8, 8, 3)
LABELS = np.arange(30) % 3


def make_folder(place):
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        write(place / "set" / "abc"[label] / f"{number:02d}.png", png(image))
    return f"folder:{place}/set"


def make_prefixed(place):
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        write(place / "set" / f"{'abc'[label]}_{number:02d}.PNG", png(image))
    return f"folder:{place}/set"


def make_npz(place):
    np.savez(write(place / "set.npz", b""), IMAGES, LABELS)
    return f"npz:{place}/set.npz"


def make_named_npz(place):
    np.savez(write(place / "set.npz", b""), images=IMAGES, labels=LABELS.astype(np.uint8))
    return f"npz:{place}/set.npz"


def make_idx(place):
    held = splits.held_out(LABELS)
    for prefix, rows in {"train": ~held, "t10k": held}.items():
        write(place / f"{prefix}-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES[rows, :, :, 0])))
        write(place / f"{prefix}-labels-idx1-ubyte", idx(LABELS[rows].astype(np.uint8)))
    return f"idx:{place}"


class EncodedTiles(tfds.core.GeneratorBasedBuilder):
    """The thirty pictures as PNG in an Image feature: given as bytes, they are prepared without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE = (None, None, 3)

    def _info(self):
        features = {"image": tfds.features.Image(shape=self.SHAPE), "label": tfds.features.ClassLabel(num_classes=3)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        held = splits.held_out(LABELS)
        return {"train": self._generate_examples(~held), "test": self._generate_examples(held)}

    def _generate_examples(self, rows):
        for number in np.flatnonzero(rows):
            yield int(number), {"image": self.picture(IMAGES[number]), "label": int(LABELS[number])}

    def picture(self, image):
        return png(image)


class TensorTiles(EncodedTiles):
    """The same as arrays, under names of its own."""

    def _info(self):
        features = {
            "picture": tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
            "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "kind")
        )

    def _generate_examples(self, rows):
        for number in np.flatnonzero(rows):
            yield int(number), {"picture": IMAGES[number], "kind": int(LABELS[number])}


class RawTiles(EncodedTiles):
    """The same as arrays in an Image feature of one size: TensorFlow encodes them."""

    SHAPE = (8, 8, 3)

    def picture(self, image):
        return image
