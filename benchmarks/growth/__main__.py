"""Growth: what a call of guided sampling costs against batch, steps, side, classes, particles and devices.

    python -m benchmarks.growth --page
    python -m benchmarks.growth --knobs          # draws table and picture from the file alone

The network is that of `make demo`, guided without a classifier; one thing is turned at a time (`knobs`), on one device
unless that is what is turned. The values of a knob are called in turn, so that other load falls on all alike, and the
medians count. Compiling is the first call without the time of a later one; memory is what XLA plans for a device beside
weights and results. The rows go to docs/images/growth.json, a knob when it is measured. About four minutes on two
cores without other load.
"""

import dataclasses
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

from guided_jax import parallel
from guided_jax.app import cli

if __name__ == "__main__":  # before the library's tables are put on a device
    cli.start_again()  # with large pages, as `guided-jax` starts
    parallel.use_cpu_devices()

import jax
import numpy as np

from benchmarks.growth import knobs, pages
from benchmarks.measured import fill_page, keep_rows, known_rows
from benchmarks.mixture import OUT
from benchmarks.speed.__main__ import PAGE, machine

FILE = "growth.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure how the cost of a call grows."""

    knobs: tuple[Literal["batch", "steps", "side", "classes", "particles", "devices"], ...] = tuple(knobs.KNOBS)  # type: ignore[assignment]
    """What is turned; with nothing after it the table and picture are drawn from the file."""
    rounds: int = 3
    quick: bool = False
    """The two smallest values of each, one round, into runs/growth: no numbers to quote."""
    out: Path | None = None
    """Where growth.json and growth.png go: docs/images, with --quick runs/growth."""
    page: bool = False
    """Put the table into docs/performance.md."""


def clock() -> np.ndarray:
    """Seconds: of the clock, of all threads, and of the system for them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_stime])


def timed(run: Callable[[], Any]) -> np.ndarray:
    """`clock` after one call minus that before it."""
    start = clock()
    run()
    return clock() - start


def measure(knob: str, rounds: int, values: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each value: seconds of each round, of compiling, bytes of memory at the ends, operations."""
    programs = {value: knobs.program(knob, value) for value in values}
    first = {value: timed(program.run)[0] for value, program in programs.items()}
    found: dict[int, list[np.ndarray]] = {value: [] for value in values}
    load, place = os.getloadavg()[0], machine()
    for _ in range(rounds):
        for value, program in programs.items():
            found[value].append(timed(program.run))
    rows = []
    for value in values:
        seconds, processor, system = (list(map(float, each)) for each in np.transpose(found[value]))
        row = {
            "knob": knob,
            "value": value,
            "seconds": seconds,
            "processor": median(processor),
            "system": median(system),
        }
        row["compile"] = max(0.0, float(first[value]) - median(seconds))
        planned = knob != "devices" and value in (values[0], values[-1])
        row["memory"] = programs[value].memory() if planned else None
        row |= {"operations": knobs.operations(knob, value), "load": load}
        rows.append(row | {"machine": f"{place['cpu']}, {place['cores']} cores, jax {jax.__version__}"})
    return rows


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of a knob into the file, in the place of its older ones."""
    keep_rows(path, rows, lambda row: row["knob"])


def turned(knob: str, quick: bool) -> tuple[int, ...]:
    """The values that this machine can be measured at."""
    values = knobs.KNOBS[knob].values
    if knob == "devices":
        values = tuple(value for value in values if value <= len(jax.devices()))
    return values[:2] if quick else values


def main(args: Any) -> None:
    """Measure what is asked for, and draw everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.growth", args, description=__doc__ or "")
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}; give at least 1")
    if options.quick and options.page:
        raise ValueError("--quick makes no numbers to quote, and --page would put them into the page; drop one")
    out = options.out or (Path("runs/growth") if options.quick else OUT)
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for knob in options.knobs:
        values = turned(knob, options.quick)
        if len(values) < 2:
            print(f"{knob}: there is only {values[0]} here, which has no slope; it is left out")
            continue
        rows = measure(knob, 1 if options.quick else options.rounds, values)
        keep(out / FILE, rows)
        times = (f"{row['value']:,} {1000 * median(row['seconds']):.3g} ms" for row in rows)
        print(f"{knob}: {', '.join(times)}", flush=True)
    rows = known_rows(out / FILE)
    pages.picture(rows, out / "growth.png")
    text = pages.growth(rows)
    print(f"\n{text}\n\nmeasured in {time.monotonic() - start:.0f} s: {out / FILE}")
    if options.page:
        fill_page(PAGE, {"growth": text})


if __name__ == "__main__":
    cli.script(main)
