"""The tables of docs/posteriors.md, of what `benchmarks.posteriors` measured."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from benchmarks import sampler_pages
from guided_jax.storage.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot

Row = dict[str, Any]
PAGE = Path(__file__).parent.parent / "docs" / "posteriors.md"
FLOOR = "other exact draws"
STEPS = (20, 100)  # of every method
BEST = "`particles.measurement`, optimal variance"
# The rows of the table of cloud sizes: the one of 1000 is that of the main table.
CLOUDS = {"100 particles": "100", BEST: "1000", "10000 particles": "10000"}


def place(row: Row) -> tuple[Any, ...]:
    """What tells a row from others, and orders them in the file."""
    return row["dx"], row["method"], row["dy"], row["steps"]


def lines(rows: list[Row]) -> str:
    """JSON, a row a line, numbers of four digits."""
    return "[\n" + ",\n".join(json.dumps({k: sampler_pages.short(v) for k, v in row.items()}) for row in rows) + "\n]\n"


def mean_and_bar(values: list[float]) -> tuple[float, float]:
    """The mean over problems, and 1.96 standard errors of it."""
    found = np.asarray(values, np.float64)
    return float(found.mean()), float(1.96 * found.std(ddof=1) / np.sqrt(len(found)))


def say(row: Row) -> str:
    """A line for the terminal."""
    mean, bar = mean_and_bar(row["distance"])
    rest = f"modes {np.mean(row['modes']):.3f}, coverage {np.mean(row['coverage']):.3f}, {row['seconds']:.0f} s"
    return f"dx {row['dx']}, dy {row['dy']}, {row['steps']} steps, {row['method']}: {mean:.2f} ± {bar:.2f}; {rest}"


def cell(rows: list[Row], column: str, digits: int, **wanted: Any) -> str:
    """Mean and error bar of the one row that has these values, or nothing."""
    found = sampler_pages.where(rows, **wanted)
    if not found:
        return ""
    mean, bar = mean_and_bar(found[0][column])
    if mean > 1000:  # the data are within 50
        return "diverges"
    return f"{mean:.{digits}f} ± {bar:.{digits}f}"


def distances(rows: list[Row], dx: int, labels: dict[str, str], steps: tuple[int, ...]) -> str:
    """Sliced Wasserstein distance of methods, a column for each number of measurements and of steps.

    labels: of the rows, by method.
    """
    rows = sampler_pages.where(rows, dx=dx)
    columns = [(dy, n) for dy in sorted({row["dy"] for row in rows}) for n in steps]
    body = []
    for name in [each for each in labels if sampler_pages.where(rows, method=each)]:
        cells = [cell(rows, "distance", 2, method=name, dy=dy, steps=n) for dy, n in columns]
        body.append([labels[name], sampler_pages.where(rows, method=name)[0]["calls"], *cells])
    floor = [cell(rows, "distance", 2, method=FLOOR, dy=dy) for dy, _ in columns]
    return sampler_pages.table(
        ["method", "calls", *(f"dy {dy}, {n} steps" for dy, n in columns)], [*body, [FLOOR, "", *floor]]
    )


def modes(rows: list[Row], dx: int, methods: list[str], steps: int = 20) -> str:
    """Probability at the wrong mode, and coverage of the 0.9 set, at one number of steps."""
    rows = sampler_pages.where(rows, dx=dx)
    measured = sorted({row["dy"] for row in rows})
    body = []
    for name in [each for each in (*methods, FLOOR) if sampler_pages.where(rows, method=each)]:
        at = 0 if name == FLOOR else steps
        given = [{"method": name, "dy": dy, "steps": at} for dy in measured]
        body.append([name, *(cell(rows, c, 2, **each) for c in ("modes", "coverage") for each in given)])
    head = [f"{word}, dy {dy}" for word in ("wrong mode", "in the 0.9 set") for dy in measured]
    return sampler_pages.table(["method", *head], body)


def tables(rows: list[Row], methods: list[str]) -> dict[str, str]:
    """The tables by the names of their marks."""
    found = {}
    for dx in sorted({row["dx"] for row in rows}):
        found[f"T1, dx = {dx}"] = distances(rows, dx, {name: name for name in methods}, STEPS)
        found[f"T1, dx = {dx}, modes"] = modes(rows, dx, methods)
        if sampler_pages.where(rows, dx=dx, method="10000 particles"):
            found["T1, particles"] = distances(rows, dx, CLOUDS, (*STEPS, 500))
    return found


def picture(panels: dict[str, np.ndarray], path: Path) -> None:
    """The first two coordinates of the samples of each method; a palette keeps the file small."""
    columns = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(2, columns, figsize=(2.1 * columns, 4.6), squeeze=False)
    for axis, (name, x) in zip(axes.flat, panels.items(), strict=False):
        for points, colour in ((panels["exact"], "#9bbcdc"), (x, "#d9730d")):
            axis.scatter(*points[:, :2].T, s=2, c=colour, linewidths=0)
        axis.set(title=name.replace("`", ""), xlim=(-22, 22), ylim=(-22, 22), xticks=[], yticks=[])
        axis.set_aspect("equal")
        axis.title.set_fontsize(6)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=90, bbox_inches="tight", pad_inches=0.05)
    pyplot.close(figure)
    Image.open(path).convert("RGB").quantize(32).save(path, optimize=True)


def write(rows: list[Row], methods: list[str], into_page: bool) -> None:
    """Print the tables of all that is known, and put them into the page."""
    found = tables(rows, methods)
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    if into_page:
        with replacing(PAGE) as file:
            file.write(sampler_pages.fill(PAGE.read_text(), found).encode())
