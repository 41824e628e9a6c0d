"""Speed: guided sampling and training, against naive JAX, against PyTorch, against the machine's own rate of matmul.

    python -m benchmarks.speed

Everybody is a process of its own; in each round each is asked for one timing in turn, so that what else the machine does
falls on all alike. Tables give medians: of seconds, and of the ratios within a round. The numbers go to
runs/speed/speed.json beside those of the sizes and jobs measured before. `--sizes` and `--jobs` choose parts.
"""

import dataclasses
import functools
import json
import os
import platform
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from benchmarks.measured import fill_page
from benchmarks.speed import tables
from benchmarks.speed.sizes import SIZES, jobs
from benchmarks.speed.worker import CORES
from guided_jax.app import cli
from guided_jax.storage.files import replacing

Job = Literal["classifier", "classifier-free", "train"]
SizeName = Literal["digits", "32x32", "wide", "digits-few", "digits-gpu", "32x32-gpu", "adm64-gpu"]
PAGE = Path("docs/performance.md")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure, print the tables."""

    sizes: tuple[SizeName, ...] = ("digits", "32x32", "wide")
    """With nothing after it only what was measured before is printed."""
    jobs: tuple[Job, ...] = ("classifier", "classifier-free", "train")
    who: tuple[str, ...] = ()
    """Only these, by the names in the tables; they are printed and not kept. All when none is given."""
    rounds: int = 5
    out: Path = Path("runs/speed")
    page: bool = False
    """Put the tables into docs/performance.md too."""


class Worker:
    """The parent's end of a process."""

    def __init__(self, size: str, job: str, who: str, module: str = "benchmarks.speed.worker"):
        command = [sys.executable, "-m", module, size, job, who]
        self.name = f"{who}, {size}, {job}"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @functools.cached_property
    def ready(self) -> dict[str, Any]:
        """What it says when it has compiled; it is waited for."""
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Its next line; RuntimeError when it has ended."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def time(self) -> dict[str, Any]:
        """One timing."""
        self.process.stdin.write("time\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Ends it."""
        self.process.stdin.close()
        self.process.wait()


def competitors(size: str, job: str, options: Options) -> list[str]:
    """Those of the job that are asked for and whose packages are here."""
    here = all(find_spec(name) for name in ("torch", "diffusers"))
    known = jobs(SIZES[size])[job]
    return [who for who in known if (here or "torch" not in who) and (not options.who or who in options.who)]


def count(size: str, torch: bool) -> dict[str, Any]:
    """Operations and passes, of both sides."""
    found, *others = [Worker(size, "", who).ready for who in ("counts", "counts, torch")[: 1 + torch]]
    for other in others:
        found["torch"] = other["torch"]
        for job, asked in other["passes"].items():
            found["passes"][job] |= asked
    return found


def measure(size: str, job: str, options: Options, bar: tqdm) -> list[dict[str, Any]]:
    """A row for each competitor."""
    names, load = competitors(size, job, options), os.getloadavg()[0]
    products = [Worker(size, "matmul", who) for who in ("jax", "torch")[: 1 + any("torch" in who for who in names)]]
    workers, seconds, matmul = {}, {who: [] for who in names}, []
    for who in names:
        workers[who] = Worker(size, job, who)
        if SIZES[size].device == "cpu":  # one after the other: compiling takes all cores
            _ = workers[who].ready
        bar.update()
    for worker in (*products, *workers.values()):
        _ = worker.ready
    for _ in range(options.rounds):
        matmul.append(min(worker.time()["seconds"] for worker in products))
        last = {who: worker.time() for who, worker in workers.items()}
        for who, found in last.items():
            seconds[who].append(found["seconds"])
        bar.update()
    shared = {"size": size, "job": job, "matmul": matmul, "load": load, "machine": machine()}
    rows = [
        {**shared, "who": who, "seconds": seconds[who], "memory": last[who]["memory"], **worker.ready}
        for who, worker in workers.items()
    ]
    for worker in (*products, *workers.values()):
        worker.close()
    return rows


def machine() -> dict[str, Any]:
    """What it is, and how busy."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {"cpu": (models or [platform.processor()])[0], "cores": CORES, "python": platform.python_version()}


def kept(path: Path) -> dict[str, Any]:
    """What was measured before."""
    return json.loads(path.read_text()) if path.is_file() else {"rows": [], "counts": {}}


def merged(known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What was measured before, with what was measured now in its place."""
    new = {(row["size"], row["job"]) for row in found["rows"]}
    rows = [row for row in known["rows"] if (row["size"], row["job"]) not in new] + found["rows"]
    return {"rows": rows, "counts": known["counts"] | found["counts"]}


def main(args: Any) -> None:
    """Measures what is asked for and prints everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.speed", args, description=__doc__ or "")
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}; give at least 1")
    if options.who and options.page:
        raise ValueError(
            "--who measures a part of a table, and --page would put it in the place of a whole one; drop one"
        )
    torch = all(find_spec(name) for name in ("torch", "diffusers"))
    if not torch:
        print("PyTorch is left out: torch and diffusers are not installed (the extra 'bench')")
    start, path = time.monotonic(), options.out / "speed.json"
    options.out.mkdir(parents=True, exist_ok=True)
    known = kept(path)
    total = sum(len(competitors(size, job, options)) + options.rounds for size in options.sizes for job in options.jobs)
    with tqdm(total=total + len(options.sizes), desc="speed", unit="part") as bar:
        for size in options.sizes:
            counts = {size: count(size, torch)}
            bar.update()
            for job in options.jobs:
                known = merged(known, {"rows": measure(size, job, options, bar), "counts": counts})
                if not options.who:
                    with replacing(path) as file:
                        file.write(json.dumps(known, indent=1).encode())
    report(known, options)
    print(f"\nmeasured in {time.monotonic() - start:.0f} s" + ("; not kept" if options.who else f": {path}"))


def report(known: dict[str, Any], options: Options) -> None:
    """Prints the tables, and puts them into the page if that is asked for."""
    found = tables.pages(known)
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    if options.page:
        fill_page(PAGE, found)


if __name__ == "__main__":
    cli.start_again()  # with large pages, as `guided-jax` starts; its workers have them too, those of PyTorch among them
    cli.script(main)
