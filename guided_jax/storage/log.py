"""The metrics of a run: a text file with one JSON object a line, and its curves as a picture."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax.storage.files import replacing


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Add one row, as one short line written at once, so that readers see whole rows. Raises OSError."""
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return all rows in order; none when there is no file yet. A line torn by a crash is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if Path(path).exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def truncate(path: str | os.PathLike, step: int) -> None:
    """Drop the rows after `step`, which a run resumed from there is about to write again."""
    rows = read(path)
    with replacing(path) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows if row["step"] <= step)


def plot(path: str | os.PathLike, png: str | os.PathLike, shared: Mapping[str, str] | None = None) -> None:
    """Draw every metric against the step, raw and as a running mean over a fiftieth of its rows.

    Each metric has a panel, together with its quarters (`_q1` .. `_q4`) and its value on held-out data (`held_out_`).
    shared: metric -> the title of its panel, for metrics that share one. Raises ValueError when the log has no rows.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    rows = read(path)
    if not rows:
        raise ValueError(f"{path} holds no metrics yet")
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        panels.setdefault((shared or {}).get(name) or re.sub(r"^held_out_|_q[1-4]$", "", name), []).append(name)
    columns = 1 if len(panels) < 4 else 2
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(7 * columns, 3 * height), layout="constrained")
    for place, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(height, columns, place)
        for name in names:
            _curve(axes, name, *np.array([(row["step"], row[name]) for row in rows if name in row], float).T)
        axes.set(xlabel="step", ylabel=title)
        if len(names) > 1:
            axes.legend(fontsize="x-small", ncols=2)
    with replacing(png) as file:
        figure.savefig(file, format="png", dpi=120)


def _curve(axes, name, steps, values):
    width = max(1, len(values) // 50)
    style = {
        "linestyle": "--" if name.startswith("held_out_") else "-",
        "linewidth": 1.0 if name[-3:-1] == "_q" else 2.0,
    }
    style |= {"marker": "."} if len(values) < 50 else {}  # so few that each is one measurement
    (line,) = axes.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), label=name, **style)
    axes.plot(steps, values, color=line.get_color(), alpha=0.15)
