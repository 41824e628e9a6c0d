"""Other libraries of guided diffusion in JAX with our network: google/hackable_diffusion and Dew, where installed.

    python -m benchmarks.speed.peers

Each draws and trains by its own process, guidance, sampler and training step, around our U-Net and its weights. As in
`benchmarks.speed`, everybody is a process of its own, and in each round each is asked for one timing in turn. Eight
scales are drawn once, one after another, and what is compiled for them counts. The numbers go to runs/speed/peers.json.
"""

import dataclasses
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

from tqdm import tqdm

from benchmarks.measured import fill_page, table
from benchmarks.speed.__main__ import PAGE, Worker, kept, machine
from benchmarks.speed.sizes import SIZES
from benchmarks.speed.tables import gain, three
from guided_jax.app import cli
from guided_jax.storage.files import replacing

WORKER = "benchmarks.speed.peers.worker"
PACKAGES = {"hackable_diffusion": "hackable_diffusion", "Dew": "dew"}
WHO = ("ours", "ours, 1 device", *PACKAGES)
JOBS = {
    "one scale": WHO,
    "eight scales": ("ours", *(each for name in PACKAGES for each in (name, f"{name}, traced"))),
    "interval": WHO,
    "train": WHO,
}
CHECKED = "digits"  # where calls are counted and pictures compared: neither depends on the size
Job = Literal["one scale", "eight scales", "interval", "train"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure, print the table."""

    sizes: tuple[Literal["digits", "32x32"], ...] = ("digits", "32x32")
    """Of 32x32 only one scale is measured, unless `--jobs` says otherwise. With nothing after it nothing is measured."""
    jobs: tuple[Job, ...] = ()
    """All when none is given. Calls and pictures are checked with one scale of digits."""
    rounds: int = 5
    out: Path = Path("runs/speed")
    page: bool = False
    """Put the table into docs/performance.md."""


def here(who: str) -> bool:
    """Whether the library of a competitor is installed."""
    name = who.partition(",")[0]
    return name not in PACKAGES or find_spec(PACKAGES[name]) is not None


def plan(options: Options) -> list[tuple[str, str]]:
    """(size, job) of what is measured."""
    return [
        (size, job) for size in options.sizes for job in options.jobs or (JOBS if size == CHECKED else ("one scale",))
    ]


def timings(size: str, job: str, who: list[str], options: Options) -> dict[str, dict[str, list[float]]]:
    """{"seconds": a number a round, "memory": the last} and what each said, by competitor."""
    workers = {}
    for each in who:
        workers[each] = Worker(size, job, each, WORKER)
        _ = workers[each].ready  # one after the other: compiling takes all cores
    found = {each: {**worker.ready, "seconds": []} for each, worker in workers.items()}
    for _ in range(options.rounds if job != "eight scales" else 0):
        for each, worker in workers.items():
            said = worker.time()
            found[each]["seconds"].append(said["seconds"])
            found[each]["memory"] = said["memory"]
    for each, worker in workers.items():
        worker.close()
        found[each]["seconds"] = found[each]["seconds"] or [worker.ready["seconds"]]
    return found


def measure(size: str, job: str, options: Options) -> list[dict[str, Any]]:
    """A row for each competitor."""
    load = os.getloadavg()[0]
    found = timings(size, job, [who for who in JOBS[job] if here(who)], options)
    shared = {"size": size, "job": job, "load": load, "machine": machine()}
    return [{**shared, "who": who, **said} for who, said in found.items()]


def lines(known: dict[str, Any]) -> str:
    """The table, and a paragraph on where it was measured."""
    rows, checks, body = known["rows"], known["counts"], []
    for row in rows:
        first = next(each for each in rows if (each["size"], each["job"]) == (row["size"], row["job"]))
        check = checks.get(row["who"].replace(", traced", ""), {"calls": {}, "apart": {}})
        calls, apart = (check[name].get(row["job"]) for name in ("calls", "apart"))
        body.append(
            (
                row["size"],
                row["job"],
                row["who"],
                three(median(row["seconds"])),
                f"{gain(row, first):.2f}",
                str(row["programs"]),
                f"{calls:g}" if calls else "",
                f"{row['memory']:.0f}",
                f"{apart:.0e}" if apart is not None and row["size"] == CHECKED else "",
            )
        )
    head = ("size", "job", "program", "s", "times ours", "compilations", "calls", "memory, MiB", "pictures apart")
    packages: dict[str, str] = {}
    for row in rows:
        packages |= row["versions"]
    place, loads = rows[-1]["machine"], [row["load"] for row in rows]
    return (
        f"{table(head, body)}\n\n{place['cpu']}, {place['cores']} cores, Python {place['python']}; "
        f"{', '.join(f'{name} {version}' for name, version in sorted(packages.items()))}. "
        f"The load average was {min(loads):.1f} to {max(loads):.1f} when a part began, the benchmark's own included."
    )


def main(args: Any) -> None:
    """Measures what is asked for and prints everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.speed.peers", args, description=__doc__ or "")
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}; give at least 1")
    absent = [name for name in PACKAGES if not here(name)]
    for name in absent:
        print(f"{name} is left out: it is not installed (docs/performance.md, Other libraries, says how)")
    if len(absent) == len(PACKAGES):
        return
    if absent and options.page:
        raise ValueError(
            f"--page would put a table without {absent[0]} in the place of a whole one; install it or drop --page"
        )
    start, path = time.monotonic(), options.out / "peers.json"
    options.out.mkdir(parents=True, exist_ok=True)
    known, order = kept(path), [(size, job) for size in SIZES for job in JOBS]
    with tqdm(total=len(plan(options)) + 1, desc="peers", unit="part") as bar:
        for who in filter(here, WHO if (CHECKED, "one scale") in plan(options) else ()):
            known["counts"][who] = Worker(CHECKED, "check", who, WORKER).ready
        bar.update()
        for size, job in plan(options):
            others = [row for row in known["rows"] if (row["size"], row["job"]) != (size, job)]
            rows = others + measure(size, job, options)
            known["rows"] = sorted(rows, key=lambda row: order.index((row["size"], row["job"])))
            with replacing(path) as file:
                file.write(json.dumps(known, indent=1).encode())
            bar.update()
    print(f"\npeers\n\n{lines(known)}\n\nmeasured in {time.monotonic() - start:.0f} s: {path}")
    if options.page:
        fill_page(PAGE, {"peers": lines(known)})


if __name__ == "__main__":
    cli.start_again()  # with large pages, as `guided-jax` starts; its workers have them too, those of the others among them
    cli.script(main)
