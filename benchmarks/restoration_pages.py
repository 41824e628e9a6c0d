"""The tables and pictures of docs/methods.md that `benchmarks.restoration` measured."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from benchmarks import measured, sampler_pages
from guided_jax.storage import images

matplotlib.use("Agg")
from matplotlib import pyplot

Row = dict[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "methods.md"
COLUMNS = {  # of a row -> the head of the table, and the digits of a number
    "psnr": ("PSNR of a sample", 1),
    "mean psnr": ("of the mean", 1),
    "perceptual": ("perceptual distance", 2),
    "accuracy": ("accuracy", 2),
    "coverage": ("coverage", 2),
}
SHOWN = 6  # pictures of each measurement


def say(row: Row) -> str:
    """Return a line for the terminal."""
    found = ", ".join(f"{name} {row[name]:.3f}" for name in COLUMNS)
    return f"{row['measurement']}, {row['method']}, {row['setting']}, {row['calls']}, seed {row['seed']}: {found}"


def cell(values: list[float], digits: int) -> str:
    """Return mean ± standard deviation over the seeds."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def table_of(rows: list[Row], passes: int, accuracy: float) -> str:
    """Return a row for each measurement and method at a number of passes. accuracy: of the judge on the true pictures."""
    found = measured.where(rows, passes=passes)
    body = []
    for title in measured.names(found, "measurement"):
        for name in measured.names(found, "method"):
            mine = measured.where(found, measurement=title, method=name)
            if not mine:
                continue
            cells = [cell([row[each] for row in mine], digits) for each, (_, digits) in COLUMNS.items()]
            body.append([title, name, mine[0]["setting"], mine[0]["calls"], *cells])
    head = ["measurement", "method", "setting", "calls", *(head for head, _ in COLUMNS.values())]
    return measured.table(head, [*body, ["", "the true pictures", "", "", "", "", "", f"{accuracy:.2f}", ""]])


def curves(rows: list[Row]) -> Any:
    """Return a figure: three of the numbers against the passes, a row of panels a measurement, a line a method."""
    shown = {"mean psnr": "PSNR of the mean", "perceptual": "perceptual distance", "coverage": "coverage"}
    titles = measured.names(rows, "measurement")
    figure, axes = pyplot.subplots(
        len(titles), len(shown), figsize=(9.6, 2.5 * len(titles) + 0.6), layout="constrained", squeeze=False
    )
    for line, title in zip(axes, titles, strict=True):
        for panel, number in zip(line, shown, strict=True):
            for place, name in enumerate(measured.names(rows, "method")):
                mine = measured.where(rows, measurement=title, method=name)
                if not mine:
                    continue
                at = sorted({row["passes"] for row in mine})
                each = [[row[number] for row in mine if row["passes"] == passes] for passes in at]
                bars = [np.std(values, ddof=1) if values[1:] else 0 for values in each]
                colour, style = sampler_pages.STYLES[place]
                panel.errorbar(
                    at, [np.mean(values) for values in each], bars, color=colour, linestyle=style, marker="o",
                    markersize=3, capsize=2, linewidth=1, label=name.replace("`", "")
                )  # fmt: skip
            if number == "coverage":
                panel.axhline(0.9, color="0.4", linestyle="--", linewidth=1)
            panel.set(xscale="log", title=f"{title}: {shown[number]}")
            panel.title.set_fontsize(8)
            panel.set_xticks(at, [str(passes) for passes in at])
            panel.minorticks_off()
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("passes of the network", fontsize=8)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7, frameon=False
    )
    return figure


def picture(blocks: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """Return a grid: a row for the truth, the measurement and each method, the measurements side by side."""
    names = list(next(iter(blocks.values())))
    rows = [images.to_uint8(np.concatenate([block[name][:SHOWN] for block in blocks.values()])) for name in names]
    zoom = max(1, round(48 / rows[0].shape[1]))
    labels = [name.replace("`", "").replace("guidance.", "").replace("reverse.", "") for name in names]
    return images.grid(np.concatenate(rows), columns=len(rows[0]), scale=zoom, labels=labels)


def write(run: str, table: str, rows: list[Row], blocks: dict[str, dict[str, np.ndarray]]) -> None:
    """Put the table into the page, and draw the pictures of a run into docs/images."""
    images.save_png(DOCS / "images" / f"restoration-{run}.png", picture(blocks))
    if len({row["passes"] for row in rows}) > 1:
        figure, path = curves(rows), DOCS / "images" / f"restoration-{run}-curves.png"
        figure.savefig(path, dpi=100)
        pyplot.close(figure)
        Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
    measured.fill_page(PAGE, {f"restoration, {run}": table})
