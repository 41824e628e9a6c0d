"""The data that a run was trained with, read again by the commands that measure with it or against it."""

from collections.abc import Callable
from pathlib import Path

from guided_jax import data
from guided_jax.app.facts import Facts
from guided_jax.app.settings import Data


def make_reader(
    settings: Data, known: Facts, directory: Path, moved_to: Path | None = None
) -> Callable[[bool], data.Source]:
    """Return held_out -> the data of a run, from where it lay in training or, if given, from `moved_to`.

    That function raises OSError for data that is not there, and ValueError for other data than that of the run.
    """
    now = settings if moved_to is None else settings.moved(moved_to)

    def read(held_out: bool) -> data.Source:
        if now.place is not None and not now.place.exists():
            raise FileNotFoundError(
                f"the data of {directory} is not there (no {now.place}); if it was moved, give its folder by --data.dir"
            )
        source = now.make(held_out)
        if moved_to is not None:
            _check(source, known, f"the data in {now.place or now.dir}", directory)
        return source

    return read


def _check(source: data.Source, known: Facts, what: str, directory: Path) -> None:
    """Raise ValueError for data of another shape or other classes than the run's."""
    found, expected = (f"pictures of {facts.image_shape} in {facts.num_classes} classes" for facts in (source, known))
    if found != expected:
        raise ValueError(f"{what} has {found}, {directory} was trained on {expected}; give another --data.dir")
    if known.class_names and source.class_names != known.class_names:
        raise ValueError(f"{what} has other classes than {directory} was trained on; give another --data.dir")
