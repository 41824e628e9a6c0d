"""Published networks at full size on one GPU or TPU, in under ten minutes: sampling and training, in bfloat16.

    python -m benchmarks.accelerator --page
    python -m benchmarks.accelerator --rows "dit-xl2 train"
    python -m benchmarks.accelerator --quick        # tiny networks on the CPU: to see that all works

ADM 64 with classifier guidance, DiT-XL/2 and Stable Diffusion 1.5 without a classifier, EDM2-S guided by EDM2-XS, of
random weights; beside them torch compiled, where torch and diffusers are installed and diffusers has the network. Rows
compile several at a time, which takes most of the ten minutes, and are timed one by one. A row is kept in
runs/accelerator/accelerator.json as soon as it is measured, and is not measured again unless it is named. A TPU belongs
to one process: give `--at-once 1`, and --programs ours.
"""

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from benchmarks.accelerator import pages
from benchmarks.accelerator.sizes import PROGRAMS, ROWS, TINY, Row, wanted
from benchmarks.measured import fill_page, keep_rows, known_rows
from benchmarks.speed.__main__ import PAGE, Worker
from guided_jax.app import cli

MODULE = "benchmarks.accelerator.worker"
FILE = "accelerator.json"
Key = tuple[Row, str]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure sampling and training of published networks on one accelerator."""

    rows: tuple[str, ...] = ()
    """Such as "adm64 sample"; those without a result, in the order of importance, when none is given."""
    programs: tuple[Literal["ours", "torch compiled"], ...] = PROGRAMS  # type: ignore[assignment]
    rounds: int = 5
    budget: float = 570.0
    """Seconds for all: what is not measured then is left for another run."""
    limit: float = 270.0
    """Seconds that a program may take to compile, before it is ended."""
    at_once: int = 8
    """Programs that compile at the same time."""
    quick: bool = False
    """Tiny networks on the CPU, one round, into runs/accelerator-quick: no numbers to quote."""
    out: Path | None = None
    """Where accelerator.json goes: runs/accelerator, with --quick runs/accelerator-quick."""
    page: bool = False
    """Put the table into docs/performance.md."""


def chosen(options: Options, known: list[dict[str, Any]], torch: bool) -> list[Key]:
    """What is to be measured. Raises ValueError for a row that there is not."""
    names = {f"{row.network} {row.job}": row for row in ROWS}
    if unknown := [name for name in options.rows if name not in names]:
        raise ValueError(f"--rows has {unknown[0]!r}; there is {', '.join(names)}")
    there = {(row["network"].removesuffix(TINY), row["job"], row["who"]) for row in known}
    keys = [(row, who) for row in ROWS for who in wanted(row, torch) if who in options.programs]
    if options.rows:
        return [(row, who) for row, who in keys if f"{row.network} {row.job}" in options.rows]
    return [(row, who) for row, who in keys if (*row, who) not in there]


def waves(keys: Sequence[Key], size: int) -> Iterator[list[Key]]:
    """So many at a time, the programs of a row together where they fit."""
    wave: list[Key] = []
    for row in dict.fromkeys(row for row, _ in keys):
        own = [key for key in keys if key[0] == row]
        if wave and len(wave) + len(own) > size:
            yield wave
            wave = []
        for key in own:
            if len(wave) == size:
                yield wave
                wave = []
            wave.append(key)
    if wave:
        yield wave


def start(row: Row, who: str, quick: bool, seconds: float) -> Worker:
    """A process that is ended unless it is closed within so many seconds."""
    worker = Worker(row.network + (TINY if quick else ""), row.job, who, MODULE)
    worker.timer = threading.Timer(max(0.0, seconds), worker.process.kill)
    worker.timer.daemon = True
    worker.timer.start()
    return worker


def finish(worker: Worker) -> None:
    """End it, whatever became of it."""
    worker.timer.cancel()
    worker.process.kill()
    worker.process.wait()


def ready(worker: Worker) -> bool:
    """Wait for it to have compiled; say so if it ended."""
    try:
        _ = worker.ready
    except RuntimeError as error:
        print(f"{error}: it is left out", flush=True)
        return False
    return True


def measure(wave: list[Key], options: Options, torch: bool, end: float) -> Iterator[dict[str, Any]]:
    """Rows as they are measured: all compile at once, then each row is timed alone, its programs in turn."""
    left = end - time.monotonic()
    workers = {key: start(*key, options.quick, min(options.limit, left)) for key in wave}
    products = [
        start(Row(wave[0][0].network, "matmul"), who, options.quick, left) for who in ("jax", "torch")[: 1 + torch]
    ]
    try:
        products = [product for product in products if ready(product)]
        there = {}
        for key, worker in workers.items():
            if ready(worker):
                worker.timer.cancel()
                there[key] = worker
        for row in dict.fromkeys(row for row, _ in there):
            yield from timings(
                {who: worker for (own, who), worker in there.items() if own == row}, row, products, options
            )
    finally:
        for worker in (*workers.values(), *products):
            finish(worker)


def timings(workers: dict[str, Worker], row: Row, products: list[Worker], options: Options) -> list[dict[str, Any]]:
    """The rows of the programs of one row."""
    seconds: dict[str, list[float]] = {who: [] for who in workers}
    matmul: list[float] = []
    last: dict[str, dict[str, Any]] = {}
    for _ in range(1 if options.quick else options.rounds):
        matmul.append(min((product.time()["seconds"] for product in products), default=float("nan")))
        for who, worker in workers.items():
            last[who] = worker.time()
            seconds[who].append(last[who]["seconds"])
    shared = {"network": row.network + (TINY if options.quick else ""), "job": row.job, "matmul": matmul}
    return [
        {**shared, "who": who, "seconds": seconds[who], "memory": last[who]["memory"], **worker.ready}
        for who, worker in workers.items()
    ]


def main(args: Any) -> None:
    """Measure what is missing or named, and print everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.accelerator", args, description=__doc__ or "")
    for name in ("rounds", "at_once", "budget", "limit"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    if options.quick and options.page:
        raise ValueError("--quick makes no numbers to quote, and --page would put them into the page; drop one")
    end = time.monotonic() + options.budget
    torch = all(find_spec(name) for name in ("torch", "diffusers")) and "torch compiled" in options.programs
    if not torch:
        print("torch compiled is left out: torch and diffusers are not installed (the extra 'bench'), or not asked for")
    path = (options.out or Path("runs/accelerator-quick" if options.quick else "runs/accelerator")) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = chosen(options, known_rows(path), torch)
    for wave in waves(keys, options.at_once):
        if time.monotonic() > end:
            print(f"the budget of {options.budget:g} s is spent; start again for the rest")
            break
        for row in measure(wave, options, torch, end):
            keep_rows(path, [row], lambda each: [each[name] for name in ("network", "job", "who")])
            print(pages.say(row), flush=True)
    rows = known_rows(path)
    text = pages.text(rows)
    print(f"\n{text}\n\n{path}")
    if options.page and rows:
        fill_page(PAGE, {"accelerator": text})


if __name__ == "__main__":
    cli.script(main)
