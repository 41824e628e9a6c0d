"""The slopes of what was measured, a sentence on each, the table and the picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from benchmarks.growth.knobs import KNOBS
from benchmarks.measured import table, where
from guided_jax.storage.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot

Rows = list[dict[str, Any]]
PROPORTIONAL = {"devices": -1, "classes": 0, "side": 2}  # the exponent of a cost that follows the knob; of the others 1
MIB = 2**20


class Curve(NamedTuple):
    """What was measured of a knob, ascending: values, and of each the milliseconds of a call and operations.

    milliseconds: of the processor, all threads together, which other load hardly changes; of several devices the clock's.
    """

    values: tuple[int, ...]
    milliseconds: tuple[float, ...]
    operations: tuple[float, ...]
    rows: Rows


def clock(row: dict[str, Any]) -> float:
    """Milliseconds of a call by the clock."""
    return 1000 * median(row["seconds"])


def curve(rows: Rows, knob: str) -> Curve:
    """The medians of each value."""
    found = sorted(where(rows, knob=knob), key=lambda row: row["value"])
    times = tuple(clock(row) if knob == "devices" else 1000 * row["processor"] for row in found)
    values, operations = (tuple(row[name] for row in found) for name in ("value", "operations"))
    return Curve(values, times, operations, found)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """d log y / d log x between the two largest x. Raises ValueError for fewer than two points."""
    if len(x) < 2:
        raise ValueError(f"{len(x)} values have no slope; measure at least 2")
    return math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(a, b) of y = a + b x, by least squares of the relative error, a at least 0."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    a, b = np.linalg.lstsq(np.stack([1 / y, x / y], -1), np.ones(len(x)), rcond=None)[0]
    return (float(a), float(b)) if a > 0 else (0.0, float(np.sum(x / y) / np.sum((x / y) ** 2)))


def powers(side: Sequence[float], operations: Sequence[float]) -> tuple[float, float, float]:
    """(a, b, c) of operations = a + b side^2 + c side^4 through the three largest sides."""
    s = np.asarray(side[-3:], float)
    return tuple(np.linalg.solve(np.stack([s**0, s**2, s**4], -1), np.asarray(operations[-3:], float)))


# --- what each slope says ----------------------------------------------------------------------------------------------


def _fixed(found: Curve, thing: str) -> str:
    a, b = line(found.values, found.milliseconds)
    return f"{a:.2g} ms + {b:.2g} ms a {thing}" if _is_told(found) else f"{b:.2g} ms a {thing}"


def _is_told(found: Curve) -> bool:
    """Whether the fixed cost is more than what rounds differ by."""
    return line(found.values, found.milliseconds)[0] > 0.05 * found.milliseconds[0]


def _line(found: Curve, thing: str, steps: int) -> str:
    a, b = line(found.values, found.milliseconds)
    rates = [each / ms / 1e6 for each, ms in zip(found.operations, found.milliseconds, strict=True)]
    fixed = (
        f": a step costs {1000 * a / steps:.0f} µs whatever it computes (the loop, and starting each operation of two "
        f"calls), as much as {a / b:.1f} {thing}s"
        if _is_told(found)
        else ", and no fixed cost that could be told"
    )
    return (
        f"{_fixed(found, thing)}{fixed}. A second of the processor does {rates[0]:.0f} GFLOP at {found.values[0]}, "
        f"{rates[-2]:.0f} at {found.values[-2]}, and {rates[-1]:.0f} at {found.values[-1]}, where the temporaries are "
        f"{found.rows[-1]['memory'] / MIB:.0f} MiB"
    )


def _batch(found: Curve, rows: Rows) -> str:
    return _line(found, "picture", 10)


def _steps(found: Curve, rows: Rows) -> str:
    a, b = line(found.values, found.milliseconds)
    compiles = [row["compile"] for row in found.rows]
    beside = (
        f"what a call of the sampler costs beside them is {a / b:.1f} steps"
        if _is_told(found)
        else "what a call of the sampler costs beside them could not be told"
    )
    return (
        f"{_fixed(found, 'step')}: every step makes the same two calls, and {beside}. It is one loop, so compiling takes "
        f"{min(compiles):.1f} to {max(compiles):.1f} s, and not longer for more of them"
    )


def _side(found: Curve, rows: Rows) -> str:
    a, b, c = powers(found.values, found.operations)
    side, of_pairs = found.values[-1], c * found.values[-1] ** 4
    of_system = [row["system"] / row["processor"] for row in found.rows[-2:]]
    return (
        f"operations have the slope {slope(found.values, found.operations):.2f}: convolutions grow as side^2, attention "
        f"over all pairs of positions as side^4, at {side} it is {of_pairs / (a + b * side**2 + of_pairs):.0%} of them. "
        f"The rest is memory: each block's weights of all pairs are {pairs(side) / MIB:.0f} MiB at {side} and "
        f"{pairs(found.values[-2]) / MIB:.0f} at {found.values[-2]}, and the system, which hands that memory out anew each "
        f"time, has {of_system[1]:.0%} of the processor's time, {of_system[0]:.0%} at {found.values[-2]}"
    )


def pairs(side: int) -> int:
    """Bytes of the attention weights of one block, of all pictures of a call, on the level that attends."""
    size = KNOBS["side"].size(side)
    factor = size.attention[-1]
    heads = size.channel_mult[factor.bit_length() - 1] * size.width // size.head_channels
    return 4 * size.images * heads * (side // factor) ** 4


def _classes(found: Curve, rows: Rows) -> str:
    ratio = found.milliseconds[-1] / found.milliseconds[0]
    return (
        f"a label is a row of the embedding, read once a call of the network: {found.values[-1]:,} classes take "
        f"{ratio:.2f} times the time of {found.values[0]}, and only the weights grow, by a row a class"
    )


def _particles(found: Curve, rows: Rows) -> str:
    text, batch = _line(found, "particle", 10), curve(rows, "batch")
    if found.values[-1] in batch.values:
        same = found.milliseconds[-1] / batch.milliseconds[batch.values.index(found.values[-1])]
        text += (
            f". It takes {same:.2f} times the processor's time of a batch of as many, measured apart: weighing and "
            "resampling are sums over the particles and a copy of them, beside the calls of the network"
        )
    return text


def _devices(found: Curve, rows: Rows) -> str:
    gain, load = found.milliseconds[0] / found.milliseconds[-1], found.rows[-1]["load"]
    reason = (
        f"{found.values[-1]} gain what it loses in dividing single operations"
        if gain > 1.05
        else f"there was no idle core at a load average of {load:.1f}"
    )
    return (
        f"by the clock {found.values[-1]} devices are {gain:.2f} times as fast as one: nothing passes between them, but "
        f"one device has a thread for each core already, and {reason}. More devices than cores would only share them, and "
        "are not measured"
    )


SENTENCES = {
    "batch": _batch,
    "steps": _steps,
    "side": _side,
    "classes": _classes,
    "particles": _particles,
    "devices": _devices,
}


def growth_table(rows: Rows) -> str:
    """A line a knob: its range, the slope at the large end, and time, compiling and memory at both ends."""
    body = []
    for knob, found in measured(rows).items():
        ends = found.rows[0], found.rows[-1]
        body.append(
            (
                f"{knob}, {found.values[0]} to {found.values[-1]:,}",
                f"{slope(found.values, found.milliseconds):.2f}",
                ", ".join(f"{1000 * row['processor']:.3g}" for row in ends),
                ", ".join(f"{clock(row):.3g}" for row in ends),
                ", ".join(f"{row['compile']:.1f}" for row in ends),
                ", ".join(f"{row['memory'] / MIB:.3g}" for row in ends if row["memory"] is not None),
            )
        )
    head = ("", "slope at the large end", "processor, ms", "clock, ms", "compiling, s", "memory, MiB")
    return table(head, body)


def growth(rows: Rows) -> str:
    """The table, what each slope says, and where it was measured."""
    lines = [f"- **{knob}**: {SENTENCES[knob](found, rows)}." for knob, found in measured(rows).items()]
    return "\n\n".join([growth_table(rows), "\n".join(lines), about(rows)])


def measured(rows: Rows) -> dict[str, Curve]:
    """The knobs that have a slope."""
    curves = {knob: curve(rows, knob) for knob in KNOBS}
    return {knob: found for knob, found in curves.items() if len(found.values) > 1}


def about(rows: Rows) -> str:
    """Where and under what load the rows were measured."""
    loads = [row["load"] for row in rows]
    places = ", ".join(dict.fromkeys(row["machine"] for row in rows))
    return f"{places}. The load average was {min(loads):.1f} to {max(loads):.1f}, the benchmark's own included."


def picture(rows: Rows, path: Path) -> None:
    """Milliseconds of a call against each knob, both logarithmic, and a cost in proportion through the last point."""
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.8), layout="constrained")
    found = measured(rows)
    for axis, knob in zip(axes.flat, KNOBS, strict=True):
        if knob in found:
            panel(axis, knob, found[knob])
        else:
            axis.set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)
    pyplot.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def panel(axis: Any, knob: str, found: Curve) -> None:
    """One knob: the curve, every round by the clock, the line of a cost in proportion."""
    x, power = np.asarray(found.values, float), PROPORTIONAL.get(knob, 1)
    name = {0: "constant", 1: "in proportion", 2: "as the pixels", -1: "in inverse proportion"}[power]
    proportional = found.milliseconds[-1] * (x / x[-1]) ** power
    axis.plot(x, proportional, color="0.6", linestyle="--", lw=1, label=f"{name}: slope {power}")
    label = f"{'clock' if knob == 'devices' else 'processor'}: {slope(found.values, found.milliseconds):.2f} at the end"
    axis.plot(x, found.milliseconds, color="C0", marker="o", markersize=4, lw=1.3, label=label)
    rounds = [(value, 1000 * each) for value, row in zip(x, found.rows, strict=True) for each in row["seconds"]]
    axis.plot(*zip(*rounds, strict=True), ".", color="C1", alpha=0.5, markersize=3, label="clock, each round")
    unit = KNOBS[knob].unit
    xlabel = knob if unit == knob else f"{knob} [{unit}]"
    axis.set(xscale="log", yscale="log", title=knob, xlabel=xlabel, ylabel="time of a call [ms]")
    axis.set_xticks(x, [f"{value:,}" for value in found.values])
    axis.minorticks_off()
    low, high = axis.get_ylim()
    if high < 8 * low:  # a flat curve is not to fill its panel with noise
        middle = math.sqrt(low * high)
        axis.set_ylim(middle / 4, middle * 4)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small")
