"""The data that a run was trained with, read again by the commands that measure with it or against it."""

import functools
from collections.abc import Callable
from pathlib import Path

from guided_jax import data
from guided_jax.app.facts import Facts, count_labels
from guided_jax.app.settings import NO_DATA, Data

DIGITS = (8, 8, 1)


def make_reader(
    settings: Data, facts: Facts, directory: Path, moved_to: Path | None = None
) -> Callable[[bool], data.Source] | None:
    """Return held_out -> the data of a run, from where it lay in training or, if given, from `moved_to`.

    None for a run without data. The function reads each part once. It raises OSError for data that is not there, and
    ValueError for other data than that of the run.
    """
    # Conversions of before wrote the default data, the digits.
    if settings.name == NO_DATA or (settings == Data() and facts.image_shape != DIGITS):
        return None
    now = settings if moved_to is None else settings.moved(moved_to)

    @functools.cache
    def read(held_out: bool) -> data.Source:
        if now.place is not None and not now.place.exists():
            raise FileNotFoundError(
                f"the data of {directory} is not there (no {now.place}); if it was moved, give its folder by --data.dir"
            )
        source = now.make(held_out)
        if wrong := _difference(source, facts):
            what = f"the data {now.name}" if moved_to is None else f"the data in {now.place or now.dir}"
            raise ValueError(f"{what} has {wrong[0]}, {directory} was trained on {wrong[1]}; give another --data.dir")
        return source

    return read


def _difference(source: data.Source, facts: Facts) -> tuple[str, str] | None:
    """Return in words what the data has and what the run was trained on, None where both are the same."""
    found, expected = (_words(each) for each in (source, facts))
    if found != expected:
        return found, expected
    if facts.words is not None and source.words != facts.words:
        return "captions of other words", "those of its own"
    if facts.class_names and source.class_names != facts.class_names:
        return f"the classes {_listed(source.class_names)}", _listed(facts.class_names)
    return None


def _words(each: data.Source | Facts) -> str:
    return f"pictures of {each.image_shape} {'in' if each.labelling == 'class' else 'with'} {count_labels(each)}"


def _listed(names: tuple[str, ...] | None) -> str:
    """Return the first few names in words."""
    return "without names" if not names else ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
