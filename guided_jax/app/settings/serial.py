"""Settings to JSON and back."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from guided_jax.app.settings.experiment import Experiment


def to_dict(settings: Any) -> dict[str, Any]:
    """Return a dataclass as JSON holds it: paths as text, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def from_dict(values: dict[str, Any], kind: Any = Experiment) -> Any:
    """Return the dataclass back from JSON; raise ValueError for a field that this version does not have."""
    hints = typing.get_type_hints(kind)
    unknown = set(values) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no field {', '.join(sorted(unknown))}; was the run made by a newer version?"
        )
    return kind(**{name: _read(value, hints[name]) for name, value in values.items()})


def _read(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint)
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if value is not None and Path in (hint, *typing.get_args(hint)) else value
