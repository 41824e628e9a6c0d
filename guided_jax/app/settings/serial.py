"""Settings to JSON and back."""

import dataclasses
import json
import reprlib
import types
import typing
from pathlib import Path
from typing import Any

from guided_jax.app.settings.experiment import Experiment


def to_dict(settings: Any) -> dict[str, Any]:
    """Return a dataclass as JSON holds it: paths as text, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def from_dict(values: Any, kind: Any = Experiment) -> Any:
    """Return the dataclass back from JSON.

    Raises ValueError for a field that this version does not have, and TypeError for a value that no such field can have.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__} is {reprlib.repr(values)}")
    hints = typing.get_type_hints(kind)
    unknown = set(values) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no field {', '.join(sorted(unknown))}; was the run made by a newer version?"
        )
    return kind(**{name: _read(f"{kind.__name__}.{name}", value, hints[name]) for name, value in values.items()})


def _read(name: str, value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint)
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(value, hint):
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    return Path(value) if value is not None and Path in (hint, *typing.get_args(hint)) else value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value from JSON, its lists as tuples, can be of the type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is Ellipsis else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if isinstance(value, bool):
        return hint is bool
    accepted: dict[Any, Any] = {float: (int, float), Path: str}
    return isinstance(value, accepted.get(hint, hint))
