"""The metrics of a run: a text file with one JSON object a line, and its curves as a picture."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax.files import replacing


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Adds one row; a row is one short line written at once, so a reader sees it whole."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(row)) + "\n")


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """All rows in order; none when there is no file yet. A line torn by a crash is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def truncate(path: str | os.PathLike, step: int) -> None:
    """Drops the rows after `step`, which a run resumed from there is about to write again."""
    rows = read(path)
    with replacing(path) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows if row["step"] <= step)


def plot(path: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draws every metric against the step, raw and as a running mean over a fiftieth of the rows, one panel each.

    Raises ValueError when the log has no rows.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    rows = read(path)
    if not rows:
        raise ValueError(f"{path} holds no metrics yet")
    names = [name for name in rows[-1] if name != "step"]
    figure = Figure(figsize=(6, 2.5 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        steps, values = np.array([(row["step"], row[name]) for row in rows if name in row], float).T
        width = max(1, len(values) // 50)
        axes.plot(steps, values, alpha=0.3)
        axes.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, mode="valid"), color="C0")
        axes.set(xlabel="step", ylabel=name)
    with replacing(png) as file:
        figure.savefig(file, format="png", dpi=120)
