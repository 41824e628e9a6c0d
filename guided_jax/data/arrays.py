"""Images or signals in arrays: `.npz` files in the format of ADM's samples, and the IDX files of MNIST and its relatives.

Nothing is unpickled. A file is refused as a whole, in one sentence that names it, when anything about it is wrong.
"""

import dataclasses
import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from guided_jax.data.source import Examples
from guided_jax.data.splits import divide, missing_split
from guided_jax.data.values import checked, checked_labels
from guided_jax.storage import npz

# No compressed byte of a gzip file stands for more than about so many: a header that promises more lies.
DEFLATE_RATIO = 1032

# A label beyond this is a mistake, and would cost memory for every class below it.
MOST_CLASSES = 10**6

IDX_PREFIXES = {"train": "train", "test": "t10k"}


def from_npz(path: Path, split: str, labelled: bool = True, signals: bool = False) -> Examples:
    """Return the examples of one file, divided by `splits.divide`; or of a folder's `SPLIT.npz`."""
    if not path.is_dir():
        found = _examples(*read_npz(path, signals=signals), (), labelled, str(path))
        captions = _read_captions(path, found.size)
        return divide(dataclasses.replace(found, signals=signals, captions=captions), split, str(path))
    files = {file.stem: file for file in sorted(path.glob("*.npz"))}
    if split not in files:
        raise missing_split(path, split, files) if files else ValueError(f"{path} holds no .npz files")
    others = [read_npz(file, images=False)[1] for name, file in files.items() if name != split] if labelled else []
    found = _examples(*read_npz(files[split], signals=signals), others, labelled, str(files[split]))
    return dataclasses.replace(found, signals=signals, captions=_read_captions(files[split], found.size))


def _read_captions(path: Path, size: int) -> tuple[str, ...] | None:
    """Return the array `captions` of a file, a text for each image, None where there is none; ValueError for any other."""
    found = npz.read(path, ["captions"])["captions"]
    if found is None:
        return None
    if found.shape != (size,) or found.dtype.kind != "U":
        raise ValueError(f"captions of {path} is {found.dtype} {found.shape}; {size} texts, one an image, are expected")
    return tuple(found.tolist())


def from_idx(path: Path, split: str, labelled: bool = True) -> Examples:
    """Return the examples of a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`, .gz or not."""
    if split not in IDX_PREFIXES:
        raise missing_split(path, split, sorted(IDX_PREFIXES))
    prefix = IDX_PREFIXES[split]
    images = read_idx(_idx_file(path, f"{prefix}-images-idx3-ubyte"), 3)[..., None]
    if not labelled:
        return _examples(images, None, (), False, str(path))
    labels = read_idx(_idx_file(path, f"{prefix}-labels-idx1-ubyte"), 1)
    others = [
        _idx_file(path, f"{other}-labels-idx1-ubyte", needed=False) for other in set(IDX_PREFIXES.values()) - {prefix}
    ]
    return _examples(images, labels, [read_idx(file, 1) for file in others if file], True, f"{path} ({prefix})")


def _examples(images, labels, other_labels, labelled, name):
    """Return the examples; classes are counted over the labels of every split, so that all splits number them alike."""
    if not labelled:
        labels = np.zeros(len(images), np.int32)
    elif labels is None:
        raise ValueError(f"{name} has no labels; leave them out with labelled=False")
    if len(labels) != len(images) or not len(images):
        raise ValueError(f"{name} has {len(images)} images and {len(labels)} labels; each image needs one")
    if labels.ndim > 1:
        return _examples_of_vectors(images, labels, other_labels, name)
    if labels.min() < 0:
        raise ValueError(
            f"{name} has the label {labels.min()}; labels count from 0, and labelled=False leaves them out"
        )
    highest = max(int(part.max()) for part in (labels, *other_labels) if part is not None and part.size)
    if highest >= MOST_CLASSES:
        raise ValueError(f"{name} has the label {highest}; labels are class numbers below {MOST_CLASSES}")
    labels = labels.astype(np.int32)
    return Examples(
        len(images),
        highest + 1,
        lambda rows: list(zip(images[rows], labels[rows].tolist(), strict=True)),
        lambda rows: labels[rows],
        lambda index: f"image {index} of {name}",
        images.shape[1:],
        dtype=images.dtype,
    )


def _examples_of_vectors(images, labels, other_labels, name):
    """Return the examples with several labels, or a vector, each; of as many numbers in every split."""
    labelling, labels = checked_labels(labels, f"the labels of {name}")
    size = labels.shape[1]
    for part in other_labels:
        if part is not None and part.shape[1:] != (size,):
            raise ValueError(f"{name} has {size} numbers for each image, and another split labels {part.shape}")
    return Examples(
        len(images),
        size,
        lambda rows: list(zip(images[rows], labels[rows], strict=True)),
        lambda rows: labels[rows],
        lambda index: f"image {index} of {name}",
        images.shape[1:],
        dtype=images.dtype,
        labelling=labelling,
    )


def read_npz(path: Path, images: bool = True, signals: bool = False) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return (images (N, H, W, C), labels or None): the arrays `arr_0` and `arr_1`, or `images` and `labels`.

    Labels are int (N,); or (N, K), as `values.checked_labels` takes them.

    Images are uint8 pictures of 1 to 4 channels, or float32 of any number, such as latents; (N, H, W) gets one channel.
    With `signals=True` they are floats (N, length) or (N, length, channels), which become (N, length, 1, channels). With
    `images=False` only the labels are read. Raises ValueError for other arrays and for objects that would have to be
    unpickled, OSError for a file that cannot be read.
    """
    keys, image, label = _npz_arrays(path, images)
    if image is not None:
        image = (_as_signals if signals else _as_images)(image, f"{keys[0]} of {path}")
    if label is not None and label.ndim != 2 and (label.ndim != 1 or not np.issubdtype(label.dtype, np.integer)):
        raise ValueError(
            f"{keys[1]} of {path} is {label.dtype} {label.shape}; one integer an image, or (N, K), is expected"
        )
    return image, label


def _as_signals(image: np.ndarray, name: str) -> np.ndarray:
    if image.ndim not in (2, 3) or not np.issubdtype(image.dtype, np.floating):
        raise ValueError(
            f"{name} is {image.dtype} {image.shape}; signals are floats (N, length) or (N, length, channels)"
        )
    return checked(image[:, :, None, None] if image.ndim == 2 else image[:, :, None], f"the signals {name}")


def _as_images(image: np.ndarray, name: str) -> np.ndarray:
    image = image[..., None] if image.ndim == 3 else image
    is_float = np.issubdtype(image.dtype, np.floating)
    if image.ndim != 4 or not (is_float or (image.dtype == np.uint8 and 1 <= image.shape[-1] <= 4)):
        raise ValueError(
            f"{name} is {image.dtype} {image.shape}; uint8 (N, H, W, C) with 1 to 4 channels, or floats, are expected"
        )
    return checked(image, f"the images {name}")


def _npz_arrays(path, images):
    """Return (names of images and labels, the images unless they are not wanted, the labels or None)."""
    with npz.open_npz(path) as file:
        found = file.files
        names = ("images", "labels") if "images" in found else ("arr_0", "arr_1")
        image, label = (file[name] if name in found else None for name in (names if images else ("", names[1])))
    if images and image is None:
        raise ValueError(f"{path} has no images under arr_0 or images; it has {', '.join(found) or 'no arrays'}")
    return names, image, label


def _idx_file(path, name, needed=True):
    """Return the file of that name, compressed or not; None if it is not there and not needed."""
    found = [file for file in (path / name, path / f"{name}.gz") if file.is_file()]
    if needed and not found:
        raise ValueError(f"there is no {path / name}, and none that ends in .gz")
    return found[0] if found else None


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array of an IDX file, gzipped or not, which must have so many dimensions and exactly its length.

    Raises ValueError for a file that is not so, OSError for one that cannot be read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, 8, dimensions)) or len(head) < 4 + 4 * dimensions:
                raise ValueError(
                    f"{path} is no IDX file of bytes in {dimensions} dimensions; it begins with {head[:4]!r}"
                )
            shape = tuple(np.frombuffer(head, ">u4", offset=4).tolist())
            length = math.prod(shape)
            if length > path.stat().st_size * (DEFLATE_RATIO if packed else 1):
                raise ValueError(f"{path} is too short for its {shape}; it is damaged, get it again")
            content = file.read(length + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again") from error
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) != length:
        more = "more" if len(content) > length else "less"
        raise ValueError(f"{path} holds {more} than its {shape}; it is damaged, get it again")
    return np.frombuffer(content, np.uint8).reshape(shape)
