"""The numbers of a sweep over its seeds, and their curves: precision against recall, the others against the scale."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guided_jax.metrics import MeanStd, evaluation

Found = Mapping[str, Any]  # what sweep.json holds
Axes = Any  # matplotlib is slow to import, and needed only where something is drawn
Averages = dict[str, MeanStd]  # name of a number -> its mean and standard deviation over the seeds


def averages(found: Found) -> dict[float, Averages]:
    """Return scale -> mean and standard deviation of each number over its seeds."""
    rows: dict[float, list[Mapping[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["scale"], []).append(row)
    return {scale: _over_seeds(each) for scale, each in rows.items()}


def real(found: Found) -> Averages:
    """Return those of real pictures, none where there were none."""
    return _over_seeds(found["real"]) if found["real"] else {}


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> Averages:
    names = [name for name in evaluation.TITLES if all(name in row for row in rows)]
    return {name: MeanStd.of([row[name] for row in rows]) for name in names}


def _draw_trade(axes: Axes, found: Found) -> None:
    """Draw precision against recall, a point a scale."""
    means, others = averages(found), real(found)
    x, y = ([each[name] for each in means.values()] for name in ("recall", "precision"))
    _draw_points(axes, x, y, marker="o", capsize=2)
    for scale, right, up in zip(means, x, y, strict=True):
        axes.annotate(f"{scale:g}", (right.mean, up.mean), xytext=(5, 5), textcoords="offset points", fontsize=9)
    if others:
        _draw_points(axes, [others["recall"]], [others["precision"]], marker="*", markersize=14, label="real", zorder=1)
        axes.legend()
    axes.set(xlabel="recall", ylabel="precision", title="precision against recall, by scale")


def _draw_points(axes: Axes, x: Sequence[MeanStd], y: Sequence[MeanStd], **style: Any) -> None:
    """Draw a line through the means, with bars of one standard deviation."""
    across, up = ([spread.mean for spread in each] for each in (x, y))
    axes.errorbar(across, up, yerr=deviations(y), xerr=deviations(x), **style)


def deviations(spreads: Sequence[MeanStd]) -> list[float]:
    """Return the standard deviations, 0 for a single seed, which has none."""
    return [spread.std if spread.std > 0 else 0.0 for spread in spreads]


def _against_scale(*names: str) -> Callable[[Axes, Found], None]:
    """Return the function that draws these numbers against the scale."""

    def draw(axes: Axes, found: Found) -> None:
        means, others = averages(found), real(found)
        for i, name in enumerate(names):
            title, colour = evaluation.title(name, found["features"]), f"C{i}"
            curve = [each[name] for each in means.values()]
            style = {"marker": "o", "capsize": 2, "label": title, "color": colour}
            axes.errorbar(list(means), [spread.mean for spread in curve], yerr=deviations(curve), **style)
            if name in others:
                axes.axhline(others[name].mean, linestyle="--", color=colour, alpha=0.6, label=f"{title}, real")
        axes.set(xlabel="scale", title=", ".join(evaluation.title(name, found["features"]) for name in names))
        if names[0].startswith("fd"):
            axes.set_ylim(bottom=0)
        if names == ("accuracy",):
            axes.set_ylim(0, 1.04)
        axes.legend(fontsize="small")

    return draw


PANELS: Mapping[str, tuple[tuple[str, ...], Callable[[Axes, Found], None]]] = {
    "trade": (("precision", "recall"), _draw_trade),
    "distance": (("fd",), _against_scale("fd")),
    "dino": (("fd_dinov2",), _against_scale("fd_dinov2")),
    "accuracy": (("accuracy",), _against_scale("accuracy")),
    "neighbours": (("density", "coverage"), _against_scale("density", "coverage")),
}


def panels(found: Found) -> list[str]:
    """Return the names of the panels whose numbers are there."""
    there = next(iter(averages(found).values()))
    return [name for name, (needed, _) in PANELS.items() if all(each in there for each in needed)]


def svg(found: Found, panel: str) -> bytes:
    """Return one panel as SVG, to be shown at any width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    _draw_panel(figure.subplots(), found, panel)
    return _to_bytes(figure, "svg", metadata={"Date": None})


def picture(found: Found) -> bytes:
    """Return all panels as PNG."""
    from matplotlib.figure import Figure

    names = panels(found)
    figure = Figure(figsize=(10.4, 3.6 * -(-len(names) // 2)), layout="constrained")
    for axes, name in zip(figure.subplots(-(-len(names) // 2), 2, squeeze=False).flat, names, strict=False):
        _draw_panel(axes, found, name)
    for axes in figure.axes[len(names) :]:
        axes.set_axis_off()
    return _to_bytes(figure, "png", dpi=120)


def _draw_panel(axes: Axes, found: Found, panel: str) -> None:
    PANELS[panel][1](axes, found)
    axes.grid(alpha=0.3)


def _to_bytes(figure: Any, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **more)
    return buffer.getvalue()
