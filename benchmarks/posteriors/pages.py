"""The tables of docs/posteriors.md, of what was measured."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measured
from benchmarks.posteriors import levy, mixtures
from benchmarks.posteriors.laws import LAWS
from benchmarks.posteriors.methods import BEST, FLOOR

Row = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "posteriors.md"
STEPS = (20, 100)  # of every method of T1
# The rows of two tables by the methods that they show: those of 1000 particles and of DDIM are of the main table.
CLOUDS = {"64 particles": "64", "256 particles": "256", BEST: "1000", "4000 particles": "4000"}
VARIANTS = {mixtures.MMPS: "`ddim(0.85)`"} | {name: name.removeprefix("mmps, ") for name in mixtures.VARIANTS}


def check(what: str, given: Iterable[Any], choices: Iterable[Any]) -> None:
    """Raise ValueError for one that is none of the choices."""
    unknown = [str(each) for each in given if each not in choices]
    if unknown:
        raise ValueError(f"no {what} {', '.join(unknown)}; choose among {', '.join(map(str, choices))}")


def place(row: Row) -> tuple[Any, ...]:
    """What tells a row from others, and orders them in the file."""
    if "law" in row:
        return "T2", row["law"], row["operator"], row["method"], row["steps"]
    return "T1", row["dx"], row["method"], row["dy"], row["steps"]


def mean_and_bar(values: list[float]) -> tuple[float, float]:
    """The mean over problems, and 1.96 standard errors of it."""
    found = np.asarray(values, np.float64)
    return float(found.mean()), float(1.96 * found.std(ddof=1) / np.sqrt(len(found)))


def say(row: Row) -> str:
    """A line for the terminal."""
    score = "gap" if "law" in row else "distance"
    mean, bar = mean_and_bar(row[score])
    covered = f"in the 0.9 set {np.mean(row['coverage']):.3f}, " if "coverage" in row else ""
    return f"{', '.join(map(str, place(row)))}: {score} {mean:.2f} ± {bar:.2f}; {covered}{row['seconds']:.0f} s"


def cell(rows: list[Row], column: str, digits: int, **wanted: Any) -> str:
    """Mean and error bar of the one row that has these values, or nothing."""
    found = measured.where(rows, **wanted)
    if not found or column not in found[0]:
        return ""
    mean, bar = mean_and_bar(found[0][column])
    if not mean < 1000:  # the data of T1 are within 50
        return "diverges"
    return f"{mean:.{digits}f} ± {bar:.{digits}f}"


def distances(rows: list[Row], dx: int, labels: dict[str, str], steps: tuple[int, ...]) -> str:
    """Sliced Wasserstein distance of methods, a column for each number of measurements and of steps.

    labels: of the rows, by method.
    """
    rows = measured.where(rows, dx=dx)
    columns = [(dy, n) for dy in sorted({row["dy"] for row in rows}) for n in steps]
    body = []
    for name in [each for each in labels if measured.where(rows, method=each)]:
        cells = [cell(rows, "distance", 2, method=name, dy=dy, steps=n) for dy, n in columns]
        body.append([labels[name], measured.where(rows, method=name)[0]["calls"], *cells])
    floor = [cell(rows, "distance", 2, method=FLOOR, dy=dy) for dy, _ in columns]
    return measured.table(
        ["method", "calls", *(f"dy {dy}, {n} steps" for dy, n in columns)], [*body, [FLOOR, "", *floor]]
    )


def modes(rows: list[Row], dx: int, methods: Iterable[str], steps: int = 20) -> str:
    """Probability at the wrong mode, and coverage of the 0.9 set, at one number of steps."""
    rows = measured.where(rows, dx=dx)
    given_dy = sorted({row["dy"] for row in rows})
    body = []
    for name in [each for each in (*methods, FLOOR) if measured.where(rows, method=each)]:
        at = 0 if name == FLOOR else steps
        given = [{"method": name, "dy": dy, "steps": at} for dy in given_dy]
        body.append([name, *(cell(rows, c, 2, **each) for c in ("modes", "coverage") for each in given)])
    head = [f"{word}, dy {dy}" for word in ("wrong mode", "in the 0.9 set") for dy in given_dy]
    return measured.table(["method", *head], body)


def variants(rows: list[Row]) -> str:
    """Distance and wrong modes of `guidance.mmps` with each step at 8 dimensions; the range of the means of 20 problems."""
    rows = measured.where(rows, dx=8)
    body = []
    for name in [each for each in VARIANTS if measured.where(rows, method=each)]:
        steps = 20 if name == mixtures.FIVE_CALLS else 100
        given = [{"method": name, "dy": dy, "steps": steps} for dy in mixtures.MEASURED]
        cells = [cell(rows, column, 2, **each) for column in ("distance", "modes") for each in given]
        found = [row["distance"] for row in measured.where(rows, **given[0])]
        body.append([VARIANTS[name], str(len(found[0])) if found else "", *cells, twenties(found[0] if found else [])])
    head = [f"{word}, dy {dy}" for word in ("distance", "wrong mode") for dy in mixtures.MEASURED]
    return measured.table(["step", "problems", *head, "means of twenty, dy 1"], body)


def twenties(values: list[float]) -> str:
    """The least and the greatest mean of twenty problems that follow each other, where there are more than twenty."""
    means = np.asarray(values[: len(values) // 20 * 20]).reshape(-1, 20).mean(1)
    return f"{means.min():.2f} to {means.max():.2f}" if len(means) > 1 else ""


def walks(rows: list[Row], column: str, digits: int) -> str:
    """One score of T2: a block of rows for each operator, a column for each law."""
    rows = [row for row in rows if "law" in row]
    laws = [law for law in LAWS if measured.where(rows, law=law)]
    body = []
    for operator in levy.matrices():
        here = measured.where(rows, operator=operator)
        for name in [each for each in (*levy.METHODS, FLOOR) if measured.where(here, method=each)]:
            cells = [cell(rows, column, digits, law=law, operator=operator, method=name) for law in laws]
            body.append([operator, name, *cells])
    return measured.table(["what is seen", "method", *laws], body)


def tables(rows: list[Row]) -> dict[str, str]:
    """The tables by the names of their marks."""
    found = {}
    main = {name: name for name in mixtures.METHODS}
    for dx in sorted({row["dx"] for row in rows if "dx" in row}):
        found[f"T1, dx = {dx}"] = distances(rows, dx, main, STEPS if dx == 8 else (20,))
    eight = measured.where(rows, dx=8)
    if eight:
        found["T1, dx = 8, modes"] = modes(rows, 8, mixtures.METHODS)
    if any(row["method"] in mixtures.CLOUDS for row in eight):
        found["T1, particles"] = distances(rows, 8, CLOUDS, (*STEPS, 500))
    if any(row["method"] in mixtures.VARIANTS for row in eight):
        found["T1, mmps"] = variants(rows)
    if any("law" in row for row in rows):
        found["T2, gap"] = walks(rows, "gap", 2)
        found["T2, coverage"] = walks(rows, "coverage", 2)
    return found


def write(rows: list[Row], into_page: bool) -> None:
    """Print the tables of all that is known, and put them into the page."""
    found = tables(rows)
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    if into_page:
        measured.fill_page(PAGE, found)
