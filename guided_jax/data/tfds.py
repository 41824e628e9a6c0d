"""The sets of TensorFlow Datasets, by name, the embedded digits, and the emoji; reading needs no TensorFlow."""

import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from guided_jax import extras
from guided_jax.data import emoji as emoji_set
from guided_jax.data import pictures
from guided_jax.data.source import Examples, subset
from guided_jax.data.splits import missing_split


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's 1797 scans of handwritten digits as 8 x 8 x 1 uint8: 1437 to train with, 360 held out.

    Pixel v of 0..16 becomes 255 v / 16, halves rounded up. The split is stratified by digit and fixed.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # A Tensor feature: the Image feature needs TensorFlow to be written.
        features = {"image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)}
        features["label"] = tfds.features.ClassLabel(num_classes=10)
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits  # slow to import, and only needed to prepare
        from sklearn.model_selection import train_test_split

        values, labels = load_digits(return_X_y=True)
        images = ((values.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = train_test_split(np.arange(len(labels)), test_size=360, random_state=0, stratify=labels)
        splits = {"train": train, "test": test}
        return {name: self._generate_examples(images, labels, rows) for name, rows in splits.items()}

    def _generate_examples(self, images, labels, rows):
        for row in rows:
            yield int(row), {"image": images[row], "label": int(labels[row])}


def digits(split: str, data_dir: str | os.PathLike | None, labelled: bool = True) -> Examples:
    """Return a split of `Digits`, prepared at the first use."""

    def make():
        return Digits(data_dir=data_dir and Path(data_dir).expanduser(), file_format="array_record")

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder = _prepare(make, data_dir)
    return _examples(builder, split, labelled)


def emoji(place: str, split: str, data_dir: str | os.PathLike | None, labelled: bool = True) -> Examples:
    """Return a split of `emoji.Emoji` with its captions, prepared at the first use; its licences are then in the log.

    place: SIZE or SIZE/STYLE, the side in pixels and the only style; "" for the smallest, in all styles. ValueError for
    another size or style, OSError where nothing can be prepared.
    """
    size, _, style = (place or str(emoji_set.SIZES[0])).partition("/")
    if size not in map(str, emoji_set.SIZES):
        raise ValueError(f"there are emoji of {' and '.join(map(str, emoji_set.SIZES))} pixels a side, not {size}")
    side = int(size)
    kept = Path(data_dir).expanduser() if data_dir else None

    def make(font=False):
        config = emoji_set.Config(side, font).name
        return emoji_set.Emoji(config=config, data_dir=kept, file_format="array_record")

    log = logging.getLogger(__name__)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder = make()
        if not (builder.data_path.exists() or emoji_set.can_fetch(builder.archives)) and emoji_set.FONT.exists():
            builder = make(font=True)
        new, font = not builder.data_path.exists(), builder.builder_config.font
        builder = _prepare(functools.partial(make, font), data_dir)
    if new:
        if font:
            log.warning("emoji: npm is not installed, so they are of one style, of the font %s", emoji_set.FONT)
        for line in str(builder.info.redistribution_info.license).split("; "):
            log.warning("emoji, %s", line)
    found, records = _examples(builder, split, labelled), _records(builder, split)
    rows = _rows(builder, records, split, None, range(len(records)))
    found = dataclasses.replace(found, captions=tuple(row["caption"].decode() for row in rows))
    return _of_style(found, [row["style"].decode() for row in rows], style) if style else found


def _of_style(found, styles, style):
    if style not in styles:
        raise ValueError(f"there are no emoji in {style} style; there are {', '.join(sorted(set(styles)))}")
    return subset(found, np.flatnonzero(np.array(styles) == style))


def examples(name: str, split: str, data_dir: str | os.PathLike | None, labelled: bool = True) -> Examples:
    """Return a split of NAME, NAME/CONFIG or NAME:VERSION, prepared at the first use, which for most sets needs TensorFlow.

    The features are `image` and `label`, or the set's own pair of the two. ValueError for an unknown set or split and
    for a set without such features, OSError for one that cannot be prepared or is damaged.
    """
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", name):
        raise ValueError(f"{name!r} is no name of TensorFlow Datasets; write NAME, NAME/CONFIG or NAME:1.0.0")

    def make():
        return tfds.builder(name, data_dir=data_dir and Path(data_dir).expanduser(), file_format="array_record")

    try:
        builder = make()
    except OSError:
        raise
    except Exception as error:  # whatever a data set's own code raises
        raise ValueError(
            f"tfds:{name} cannot be loaded ({_line(error)}); correct the name, or give another data_dir"
        ) from error
    if not builder.data_path.exists() and _needs_tensorflow(builder):
        raise ValueError(_without_tensorflow(name, builder))
    try:
        return _examples(_prepare(make, data_dir), split, labelled)
    except ImportError as error:
        raise ValueError(_without_tensorflow(name, builder)) from error


def _needs_tensorflow(builder):
    """Return whether preparing needs TensorFlow, which is missing: so for Image features of the sets that TFDS brings."""
    images = any(isinstance(feature, tfds.features.Image) for feature in _by_name(builder).values())
    theirs = type(builder).__module__.startswith("tensorflow_datasets.")
    return images and theirs and not extras.is_installed("tensorflow")


def _without_tensorflow(name, builder):
    return (
        f"tfds:{name} is not prepared in {builder.data_path}, and preparing it needs TensorFlow: "
        f"{extras.install_line('tf')}, or give the data_dir where it was prepared"
    )


def _line(error):
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _prepare(make: Callable[[], Any], data_dir: Any) -> Any:
    """Return the builder with its files in place, which appear by one rename: never half, and of two processes one wins."""
    builder = None
    try:
        builder = make()
        if not builder.data_path.exists():
            builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:  # downloads, archives and generators of others raise anything
        if not (isinstance(error, OSError) and builder is not None and builder.data_path.exists()):
            place = builder.data_path if builder else data_dir
            raise OSError(
                f"cannot prepare the data in {place}: {getattr(error, 'strerror', None) or _line(error)}"
            ) from error
        builder = make()  # another process was faster
    return builder


def _examples(builder, split, labelled):
    """Return the examples of a split with an image feature, encoded or uint8, and a class label."""
    if split.partition("[")[0] not in builder.info.splits:
        raise missing_split(builder.name, split, sorted(builder.info.splits))
    image, label = _features(builder, labelled)
    feature, classes = _by_name(builder)[image], _by_name(builder)[label].num_classes if label else 1
    records = _records(builder, split)
    rows_of = functools.partial(_rows, builder, records, split, label)
    encoded, shape = isinstance(feature, tfds.features.Image), tuple(feature.shape)

    def name(index):
        return f"picture {index} of {builder.name} {split}"

    def picture(index, found):
        return pictures.with_channels(pictures.decode(found, name(index)), shape[-1]) if encoded else found

    def read(indices):
        rows = zip(indices, rows_of(indices), strict=True)
        return [(picture(index, row[image]), int(row[label]) if label else 0) for index, row in rows]

    def labels(indices):
        return np.asarray([row[label] if label else 0 for row in rows_of(indices)], np.int32)

    names = tuple(_by_name(builder)[label].names) if label else None
    return Examples(len(records), classes, read, labels, name, None if None in shape else shape, names)


def _records(builder, split):
    """Return the records of a split, their pictures left encoded for `pictures.decode`, so that all data has its errors."""
    images = [key for key, feature in _by_name(builder).items() if isinstance(feature, tfds.features.Image)]
    decoders = {key: tfds.decode.SkipDecoding() for key in images}
    try:
        return builder.as_data_source(split=split, decoders=decoders or None)
    except Exception as error:  # a slice that cannot be parsed, another file format, missing files
        raise ValueError(f"cannot read {split!r} of {builder.data_path}: {_line(error)}") from error


def _rows(builder, records, split, label, indices):
    """Return the records of these indices, read at once: fifteen times faster than one by one."""
    try:
        rows = records.__getitems__(np.asarray(indices).tolist())
    except Exception as error:
        raise OSError(f"{builder.data_path} is damaged ({_line(error)}); delete it to prepare it anew") from error
    if label and any(row[label] < 0 for row in rows):
        raise ValueError(f"{builder.name} {split} has no labels; choose another split, or labelled=False")
    return rows


def _by_name(builder):
    features = builder.info.features
    return dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}


def _features(builder, labelled):
    """Return the names of the image feature and of its class label; the second is None without `labelled`."""
    features, pair = _by_name(builder), ("image", "label")
    if not set(pair[: 1 + labelled]) <= set(features):
        pair = builder.info.supervised_keys or pair
    picture, label = (features.get(key) if isinstance(key, str) else None for key in pair[:2])
    right = picture is not None and len(picture.shape) == 3 and picture.np_dtype == np.uint8
    if not right or (labelled and not getattr(label, "num_classes", None)):
        raise ValueError(
            f"{builder.name} has no uint8 image with a class label; its features are {', '.join(sorted(features))}"
            + (" (labelled=False leaves labels out)" if right else "")
        )
    return pair[0], pair[1] if labelled else None
