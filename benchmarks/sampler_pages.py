"""The pictures and tables of docs/samplers.md, of what `benchmarks.samplers` measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from benchmarks.measured import Rows, fill_page, names, row_lines, table, where

matplotlib.use("Agg")
from matplotlib import pyplot

PAGE = Path(__file__).parent.parent / "docs" / "samplers.md"
STYLES = [(colour, line) for line in ("-", "--", ":") for colour in ("C0", "C1", "C2", "C3", "C4", "C6")]
CALLS = 15  # of the tables of one number: odd, which methods of two calls a step reach too


def lines(known: dict[str, Rows]) -> str:
    """JSON, a row a line, numbers of four digits."""
    return "{" + ",\n".join(f'"{part}": {row_lines(rows)}' for part, rows in known.items()) + "}\n"


def near(rows: Rows, budget: int) -> Rows:
    """Those of the most calls that the budget pays for, unless they leave a quarter of it."""
    paid = [row for row in rows if 0.75 * budget < row["calls"] <= budget]
    return [row for row in paid if row["calls"] == max(each["calls"] for each in paid)]


def mean(values: list[float]) -> float:
    """Of a few numbers."""
    return sum(values) / len(values)


# --- tables ----------------------------------------------------------------------------------------------------------


def cell(rows: Rows, **wanted: Any) -> str:
    """The error of the one row that has these values."""
    found = where(rows, **wanted)
    return f"{found[0]['rms']:.2g}" if found else ""


def best(cells: list[str]) -> list[str]:
    """The smallest number in bold, each cell alone."""
    least = min(float(each) for each in cells if each)
    return [f"**{each}**" if each and float(each) == least else each for each in cells]


def flow_table(rows: Rows, kind: str) -> str:
    """Unguided and guided error of each sampler on each grid."""
    rows = where(rows, table=kind)
    grids, body = names(rows, "grid"), []
    for name in names(rows, "sampler"):
        if where(rows, sampler=name, calls=CALLS):
            pairs = [best([cell(rows, sampler=name, grid=g, scale=s, calls=CALLS) for g in grids]) for s in (1.0, 3.0)]
            body.append([f"`{name}`", *(" / ".join(pair) for pair in zip(*pairs, strict=True))])
    return table(["sampler", *grids], body)


def digits_table(rows: Rows) -> str:
    """Error on the trained networks of each sampler on each grid."""
    grids, body = names(rows, "grid"), []
    for kind in names(rows, "guidance"):
        for name in names(where(rows, guidance=kind, calls=CALLS), "sampler"):
            cells = [cell(rows, guidance=kind, sampler=name, grid=g, calls=CALLS) for g in grids]
            body.append([kind, f"`{name}`", *best(cells)])
    return table(["guidance", "sampler", *grids], body)


def law_table(rows: Rows, calls: tuple[int, ...] = (10, 20, 50, 100)) -> str:
    """Distance to the exact law on each sampler's best grid at each number of calls, and which that is."""
    floor, body = rows[0]["distances"], []
    for name in names(rows[1:], "sampler"):
        cells = []
        for budget in calls:
            least = min(near(where(rows, sampler=name), budget), key=lambda row: mean(row["distances"]), default=None)
            cells.append(f"{mean(least['distances']):.3f} {least['grid']}" if least else "")
        body.append([f"`{name}`", *cells])
    body.append(["exact samples", f"{mean(floor):.3f}", f"at most {max(floor):.3f}", *[""] * (len(calls) - 2)])
    return table(["sampler", *(f"{budget} calls" for budget in calls)], body)


def quality_table(rows: Rows) -> str:
    """Accuracy and distance of the pictures at each number of calls."""
    budgets, body = (5, 8, 10, 15, 20, 30, 50), []
    for kind in names(rows, "guidance"):
        for name in names(where(rows, guidance=kind), "sampler"):
            found = where(rows, guidance=kind, sampler=name)
            paid = [near(found, budget) for budget in budgets]
            cells = [f"{at[0]['accuracy']:.3f}, {at[0]['distance']:.0f}" if at else "" for at in paid]
            if not any(cells):
                (row,) = found
                label = f"`{name}`, {row['steps']} steps"
                cells[-1] = f"{row['accuracy']:.3f}, {row['distance']:.0f} ± {spread(row):.0f}"
            else:
                label = f"`{name}`, {found[0]['grid']}"
            body.append([kind, label, *cells])
    return table(["guidance", "sampler, grid", *(f"{budget} calls" for budget in budgets)], body)


def spread(row: dict[str, Any]) -> float:
    """Half of the difference between the distances of the two halves of the samples."""
    return abs(row["blocks"][0] - row["blocks"][1]) / 2


# --- pictures --------------------------------------------------------------------------------------------------------


def figure(rows: int, columns: int, width: float = 3.2, height: float = 2.7) -> Any:
    """Panels with room for a legend on the right."""
    made, axes = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=7)
        axis.set(xscale="log", yscale="log")
    return made, axes


def save(made: Any, axes: Any, path: Path) -> None:
    """With one legend for all panels; a palette keeps the file small."""
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}  # noqa: B905
    made.tight_layout(pad=0.5)
    made.legend(handles.values(), handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    for axis in axes.flat:
        ticks = [tick for tick in (5, 7, 10, 15, 20, 30, 50, 100, 200) if within(axis, tick)]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    made.savefig(path, dpi=100, bbox_inches="tight", pad_inches=0.05)
    pyplot.close(made)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def within(axis: Any, tick: float) -> bool:
    """Whether a tick lies in the panel."""
    low, high = axis.get_xlim()
    return low <= tick <= high


def plot(axis: Any, rows: Rows, column: Callable[[dict], float], label: str, place: int) -> None:
    """One curve over the calls, each number of calls once."""
    points = sorted({row["calls"]: column(row) for row in rows}.items())
    colour, line = STYLES[place % len(STYLES)]
    axis.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker="o", markersize=2.5, lw=1.2, label=label)


def flow_picture(rows: Rows, own: dict[str, str], path: Path) -> None:
    """The error of every sampler on its own grid."""
    made, axes = figure(1, 2, 4.0, 3.4)
    for axis, (scale, title) in zip(axes.flat, ((1.0, "unguided"), (3.0, "classifier-free, scale 3")), strict=True):
        for place, name in enumerate(names([row for row in rows if "grid" in row], "sampler")):
            found = where(rows, table="cosine", scale=scale, sampler=name, grid=own[name])
            plot(axis, found, lambda row: row["rms"], f"{name}, {own[name]}", place)
        axis.set_title(f"mixture, {title}", fontsize=9)
        axis.set_xlabel("calls of the guided denoiser", fontsize=8)
    axes[0, 0].set_ylabel("rms error of x_0", fontsize=8)
    save(made, axes, path)


def grids_picture(rows: Rows, path: Path) -> None:
    """Some samplers on every grid: the mixture above without and below with guidance."""
    chosen = ("ddim", "dpm++ 2", "unipc 2", "deis 3", "heun")
    chosen = tuple(name for name in chosen if where(rows, sampler=name))
    made, axes = figure(2, len(chosen), 2.3, 2.3)
    for line, (scale, title) in zip(axes, ((1.0, "unguided"), (3.0, "scale 3")), strict=True):
        for axis, name in zip(line, chosen, strict=True):
            for place, g in enumerate(g for g in names(rows, "grid") if g != "respaced"):
                found = where(rows, table="cosine", scale=scale, sampler=name, grid=g)
                label = "uniform, respaced" if g == "uniform" else g  # they cannot be told apart
                plot(axis, found, lambda row: row["rms"], label, place)
            axis.set_title(f"{name}, {title}", fontsize=8)
            axis.set_ylim(1e-4, 3)
    save(made, axes, path)


def law_picture(rows: Rows, own: dict[str, str], path: Path) -> None:
    """The distance to the exact law, each sampler on its own grid, and that of exact samples."""
    made, axes = figure(1, 1, 5.0, 3.6)
    (axis,) = axes.flat
    floor = rows[0]["distances"]
    axis.axhspan(min(floor), max(floor), color="0.85", label="exact samples")
    for place, name in enumerate(names(rows[1:], "sampler")):
        found = where(rows, sampler=name, grid=own[name])
        plot(axis, found, lambda row: mean(row["distances"]), f"{name}, {own[name]}", place)
    axis.set_xlabel("calls of the denoiser", fontsize=8)
    axis.set_ylabel("sliced Wasserstein distance", fontsize=8)
    save(made, axes, path)


def quality_picture(rows: Rows, path: Path) -> None:
    """Accuracy above, distance below, a column a guidance; grey is the reference with its spread."""
    kinds = names(rows, "guidance")
    made, axes = figure(2, len(kinds), 3.0, 2.4)
    for column, kind in enumerate(kinds):
        found = where(rows, guidance=kind)
        for place, name in enumerate(names(found, "sampler")):
            curve = where(found, sampler=name)
            for line, what in enumerate(("accuracy", "distance")):
                if len(curve) > 1:
                    label = f"{name}, {curve[0]['grid']}"
                    plot(axes[line, column], curve, lambda row, what=what: row[what], label, place)
                else:
                    low, high = (curve[0][what] + sign * (what == "distance") * spread(curve[0]) for sign in (-1, 1))
                    axes[line, column].axhspan(low, high, color="0.8", lw=2, label=f"{name}, {curve[0]['steps']} steps")
        axes[0, column].set(yscale="linear", ylim=(0.96, 1.002), title=kind)
        axes[1, column].set(yscale="linear", ylim=(30, 100))
        axes[0, column].title.set_fontsize(9)
        axes[1, column].set_xlabel("calls of the guided denoiser", fontsize=8)
    axes[0, 0].set_ylabel("accuracy", fontsize=8)
    axes[1, 0].set_ylabel("distance", fontsize=8)
    save(made, axes, path)


# --- all of them -----------------------------------------------------------------------------------------------------


def write(known: dict[str, Rows], own: dict[str, str], out: Path, into_page: bool) -> None:
    """Pictures of all parts that are known, and their tables: printed, and put into the page."""
    tables: dict[str, str] = {}
    if "flow" in known:
        flow_picture(known["flow"], own, out / "samplers-flow.png")
        grids_picture(known["flow"], out / "samplers-grids.png")
        tables |= {f"flow, {kind}": flow_table(known["flow"], kind) for kind in ("cosine", "linear")}
    if "law" in known:
        law_picture(known["law"], own, out / "samplers-law.png")
        tables["law"] = law_table(known["law"])
    if "digits" in known:
        tables["digits"] = digits_table(known["digits"])
    if "quality" in known:
        quality_picture(known["quality"], out / "samplers-quality.png")
        tables["quality"] = quality_table(known["quality"])
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if into_page:
        fill_page(PAGE, tables)
