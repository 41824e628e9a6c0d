"""Settings that differ, by their dotted names."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def differences(saved: Any, current: Any, ignore: Collection[str] = ()) -> list[str]:
    """Return the settings that differ, each as "dotted.name: saved -> current"; `absent` stands for a missing one."""
    old, new = flatten(saved), flatten(current)
    names = [name for name in {**old, **new} if old.get(name, "absent") != new.get(name, "absent")]
    return [f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names if name not in ignore]


def flatten(config: Any) -> dict[str, Any]:
    """Return the settings by dotted name, after a round trip through JSON, which turns tuples into lists."""
    return dict(_leaves("", json.loads(json.dumps(config))))


def _leaves(prefix: str, tree: Any) -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(prefix, tree)]
    return [leaf for key, part in tree.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, part)]


def shorten(texts: Sequence[str], count: int = 4) -> str:
    """Return the first few of several texts in one line, and how many more there are."""
    rest = [f"and {len(texts) - count} more"] if len(texts) > count else []
    return "; ".join([*texts[:count], *rest])
