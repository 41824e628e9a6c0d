"""Folders of pictures: one folder a class, or ADM's file names, whose first part is the class."""

import collections
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from guided_jax.data import pictures
from guided_jax.data.source import Examples
from guided_jax.data.splits import divide, missing_split

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
# Pictures too, which nothing here decodes.
UNSUPPORTED = (
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".jxl",
    ".ppm",
    ".pgm",
    ".tga",
    ".psd",
    ".svg",
    ".exr",
    ".dng",
    ".npy",
)
# What often lies beside pictures.
DOCUMENTS = (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".html", ".pdf", ".log", ".db", ".ini")
# The names of folders that are splits and not classes.
SPLITS = ("train", "test", "val", "valid", "validation")


def examples(path: Path, split: str, labelled: bool = True) -> Examples:
    """Return the pictures of a folder, in the order of their names.

    A folder whose pictures all lie in folders called train, test, val, valid or validation is divided into these splits;
    any other by `splits.divide`, and so is one that holds `train` alone. Classes are the folders on the first
    level, numbered in the order of their names. When pictures lie there instead, the class is a file's name up to the
    first "_", wherever it lies; a few pictures beside folders that hold more are refused. ValueError for another
    path.
    """
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; give the path of one (a relative path begins at data_dir)")
    splits = _splits(path)
    if splits in ([], ["train"]):
        root = path / "train" if splits else path
        files = _files(root)
        names = _class_names(root, files) if labelled else [""] * len(files)
        return divide(_examples(root, files, names, sorted(set(names))), split, str(path))
    if split not in splits:
        raise missing_split(path, split, splits)
    files = _files(path / split)
    names = _class_names(path / split, files) if labelled else [""] * len(files)
    numbered = "train" in splits and split != "train" and labelled
    classes = _classes_of_training(path, names) if numbered else sorted(set(names))
    return _examples(path / split, files, names, classes)


def _splits(path: Path) -> list[str]:
    """Return the names of the splits that a folder is divided into, none when it is not."""
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    if any(_is_picture(entry.name) for entry in entries):
        return []
    folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    filled = [name for name in folders if any(_is_picture(file.name) for file in _walk(path / name))]
    return filled if set(filled) <= set(SPLITS) else []


def _classes_of_training(path, names):
    """Return the classes of the training pictures, which number all splits; ValueError for a class that they lack."""
    root = path / "train"
    classes = sorted(set(_class_names(root, _files(root))))
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"{root} has no class {unknown[0]!r}, another part of {path} has; sort both alike")
    return classes


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS + UNSUPPORTED)


def _files(path: Path) -> list[Path]:
    """Return every picture below, also those that cannot be decoded; one line of the log counts files of unknown kinds."""
    everything = list(_walk(path))
    found = [file for file in everything if _is_picture(file.name)]
    if not found:
        raise ValueError(f"{path} holds no pictures; they end in {', '.join(EXTENSIONS)}")
    strange = [file for file in everything if not _is_picture(file.name) and file.suffix.lower() not in DOCUMENTS]
    if strange:
        counts = f"{len(strange)} files of {path} are ignored"
        logging.getLogger(__name__).warning("%s, for pictures do not end so: %s", counts, _endings(strange))
    return found


def _endings(files: Iterable[Path]) -> str:
    """Return the number of files with each ending, in words."""
    counts = collections.Counter(file.suffix.lower() or "no ending" for file in files)
    return ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))


def _walk(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield every file below, those of a folder sorted together with its folders; links to a folder above are skipped."""
    here = path.resolve()
    if here in above:
        return
    for name in sorted(entry for entry in os.listdir(path) if not entry.startswith(".")):
        if (path / name).is_dir() and not _is_picture(name):
            yield from _walk(path / name, (*above, here))
        else:
            yield path / name


def _class_names(path: Path, files: list[Path]) -> list[str]:
    """Return the name of each file's class."""
    loose = [file for file in files if file.parent == path]
    if not loose:
        return [file.relative_to(path).parts[0] for file in files]
    nested = len(files) - len(loose)
    if nested > len(loose):
        raise ValueError(
            f"{len(loose)} of the {len(files)} pictures in {path} lie beside the folders of the others, the first is "
            f"{loose[0].name}; move them into the folders of their classes, or away"
        )
    if len(files) > 1 and not any("_" in file.name for file in files):
        raise ValueError(
            f"the pictures in {path} have no class: put them into one folder a class, call them CLASS_anything, "
            "or leave classes out with labelled=False"
        )
    if nested:
        counts = f"{len(loose)} pictures lie in {path} itself and {nested} in folders"
        logging.getLogger(__name__).warning("%s: classes are the file names up to the first '_'", counts)
    return [file.name.partition("_")[0] for file in files]


def _examples(path, files, names, classes):
    number = {name: index for index, name in enumerate(classes)}
    labels = np.asarray([number[name] for name in names], np.int32)

    def read(index):
        try:
            content = files[index].read_bytes()
        except OSError as error:
            raise pictures.Unreadable(str(files[index]), error.strerror or error) from error
        return pictures.decode(content, str(files[index])), int(labels[index])

    def read_all(indices):
        return [read(index) for index in indices]

    return Examples(
        len(files),
        len(classes),
        read_all,
        lambda rows: labels[rows],
        lambda index: str(files[index]),
        class_names=tuple(classes) if classes != [""] else None,
        refusal=_refusal(path, files),
    )


def _refusal(path: Path, files: list[Path]) -> str | None:
    """Return why the pictures are refused as a whole: some are of formats that cannot be decoded. None where none is."""
    wrong = [file for file in files if file.name.lower().endswith(UNSUPPORTED)]
    if not wrong:
        return None
    return (
        f"{len(wrong)} of the {len(files)} pictures in {path} are of formats that cannot be read ({_endings(wrong)}); "
        "convert or remove them, or leave such pictures out with corrupt='skip'"
    )
