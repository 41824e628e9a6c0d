"""Folders of pictures: one folder a class, or ADM's file names, whose first part is the class."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from guided_jax.data import pictures
from guided_jax.data.source import Examples, divide, no_split

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif")

# What a folder's parts may be called for them to be splits and not classes.
SPLITS = ("train", "test", "val", "valid", "validation")


def examples(path: Path, split: str, labelled: bool = True) -> Examples:
    """The pictures of a folder, in the order of their names.

    A folder that holds `train` and nothing but folders called train, test, val, valid or validation is divided so; any
    other by `source.divide`. Classes are the folders on the first level, numbered in the order of their names; when
    pictures lie there too, the class is a file's name up to the first "_", wherever it lies. ValueError for a path that
    is no such folder.
    """
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; give the path of one (relative paths begin at --data.dir)")
    parts = _parts(path)
    if not parts:
        files = _files(path)
        names = _classes(path, files) if labelled else [""] * len(files)
        return divide(_examples(path, files, names, sorted(set(names))), split, str(path))
    if split not in parts:
        raise no_split(path, split, parts)
    files = _files(path / split)
    names = _classes(path / split, files) if labelled else [""] * len(files)
    known = sorted(set(names)) if split == "train" or not labelled else _classes_of_training(path, names)
    return _examples(path, files, names, known)


def _parts(path):
    """The splits that a folder is divided into, if it is."""
    inside = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    loose = any(_is_picture(entry.name) for entry in os.scandir(path))
    return inside if "train" in inside and set(inside) <= set(SPLITS) and len(inside) > 1 and not loose else []


def _classes_of_training(path, names):
    """The numbering is that of the training pictures; a class that they lack has no number."""
    known = sorted(set(_classes(path / "train", _files(path / "train"))))
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{path / 'train'} has no class {unknown[0]!r}, another part of {path} has; sort both alike")
    return known


def _is_picture(name):
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _files(path) -> list[Path]:
    found = list(_walk(path, ()))
    if not found:
        raise ValueError(f"{path} holds no pictures; they end in {', '.join(EXTENSIONS)}")
    return found


def _walk(path: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Every picture below, files and folders of a folder in one sorted order; a link to a folder above is not followed."""
    here = path.resolve()
    if here in above:
        return
    for name in sorted(entry for entry in os.listdir(path) if not entry.startswith(".")):
        if _is_picture(name):
            yield path / name
        elif (path / name).is_dir():
            yield from _walk(path / name, (*above, here))


def _classes(path, files):
    """The name of each file's class."""
    if any(file.parent == path for file in files):
        if len(files) > 1 and not any("_" in file.name for file in files):
            raise ValueError(
                f"the pictures in {path} have no class: put them into one folder a class, call them CLASS_anything, "
                "or leave classes out: labelled=False (--data.no-labelled)"
            )
        return [file.name.partition("_")[0] for file in files]
    return [file.relative_to(path).parts[0] for file in files]


def _examples(path, files, names, known):
    number = {name: index for index, name in enumerate(known)}
    labels = np.asarray([number[name] for name in names], np.int32)

    def read(index):
        try:
            content = files[index].read_bytes()
        except OSError as error:
            raise pictures.Unreadable(str(files[index]), error.strerror or error) from error
        return pictures.decode(content, str(files[index])), int(labels[index])

    def read_all(indices):
        return [read(index) for index in indices]

    return Examples(len(files), len(known), read_all, lambda rows: labels[rows], lambda index: str(files[index]))
