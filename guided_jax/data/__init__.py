"""Labelled images, from a name to batches. TensorFlow Datasets, folders, `.npz` and IDX files are read; TensorFlow is not
needed, except to prepare most of the sets of TensorFlow Datasets.

A new kind of data is one function `(place, split, labelled) -> source.Examples` and one row in `_KINDS`.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from guided_jax.data import arrays, folder
from guided_jax.data.pipeline import ENDLESS, loader, scale
from guided_jax.data.source import (
    Batch,
    Crop,
    Examples,
    Labelling,
    Source,
    caption_numbers,
    class_frequencies,
    in_memory,
    largest,
    make_source,
)

__all__ = [
    "ENDLESS",
    "Batch",
    "Crop",
    "Examples",
    "Labelling",
    "Source",
    "caption_numbers",
    "class_frequencies",
    "in_memory",
    "largest",
    "load",
    "loader",
    "make_source",
    "scale",
]


def __getattr__(name: str) -> Any:
    """Import `Digits` on its first use: other data is read without importing TensorFlow Datasets."""
    if name != "Digits":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from guided_jax.data.tfds import Digits

    return Digits


# A split whose images fit into this is decoded once and kept; a larger one is read batch by batch.
IN_MEMORY_BYTES = 2**28


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    crop: Crop = "centre",
    channels: int | None = None,
    labelled: bool = True,
    corrupt: Literal["refuse", "skip"] = "refuse",
    background: int = 255,
    signals: bool = False,
) -> Source:
    """Return the split of a data set by name, as images of one shape.

    Names, all with the splits "train" and "test":

    - `digits`: scikit-learn's scans, 8 x 8 x 1: 1437 to train with, 360 held out;
    - `emoji`, `emoji:64`: emoji in four styles with captions, 32 or 64 pixels a side, fetched by npm at the first use;
      `emoji:32/noto`: those of one style;
    - `tfds:NAME`: any labelled images of TensorFlow Datasets, with the splits that they have, slices included;
    - `folder:PATH`: one folder a class, or file names that begin with `CLASS_`; or folders train, test, val of these;
    - `npz:PATH`: arrays `arr_0` and `arr_1`, or `images` and `labels`, with `captions` if there are any; a folder with
      `train.npz` and `test.npz`;
    - `idx:PATH`: a folder with `train-images-idx3-ubyte.gz` and the other three files of MNIST.

    Prepared data is kept in `data_dir`, by default TensorFlow Datasets' own directory; a relative PATH begins there. Of
    data that comes undivided every tenth of each class is held out. `image_size` (a side, or height and width, in pixels),
    `crop`, `channels`, `corrupt` and `background`: see `make_source`. Without `labelled` all examples are of the one class
    0. `signals`: the floats (N, length) or (N, length, channels) of an npz file are signals, which become images (length,
    1, channels). Raises ValueError for what is not there or not right, OSError for what cannot be read or written.

    >>> import tempfile
    >>> import numpy as np
    >>> images, labels = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.savez(f"{folder.name}/set.npz", images, labels)
    >>> source = load("npz:set.npz", "train", folder.name, image_size=(6, 8), channels=1)
    >>> len(source), source.image_shape, source.num_classes
    (18, (6, 8, 1), 2)
    >>> {name: array.shape for name, array in source.read(np.arange(4)).items()}
    {'image': (4, 6, 8, 1), 'label': (4,)}
    >>> folder.cleanup()
    """
    examples = _examples(name, split, data_dir, labelled, signals)
    return make_source(examples, image_size, crop, channels, corrupt, IN_MEMORY_BYTES, background)


_KINDS: Mapping[str, Callable[..., Examples]] = {
    "folder": folder.examples,
    "npz": arrays.from_npz,
    "idx": arrays.from_idx,
}


def _examples(name, split, data_dir, labelled, signals):
    kind, _, place = name.partition(":")
    if signals and kind != "npz":
        raise ValueError(f"signals are read from npz:PATH, and {name} is not; leave out signals=True")
    if name == "digits" or kind == "emoji" or (kind == "tfds" and place):
        from guided_jax.data import tfds  # see __getattr__

        if kind == "emoji":
            return tfds.emoji(place, split, data_dir, labelled)
        return tfds.examples(place, split, data_dir, labelled) if place else tfds.digits(split, data_dir, labelled)
    if kind in _KINDS and place:
        # Absolute, so that error messages name the whole path.
        options = {"signals": True} if signals else {}
        return _KINDS[kind]((Path(data_dir or "") / Path(place).expanduser()).absolute(), split, labelled, **options)
    known = ["digits", "emoji", "tfds:NAME", *(f"{kind}:PATH" for kind in _KINDS)]
    raise ValueError(f"there is no data set called {name!r}; there is {', '.join(known)}")
