"""Where the memory goes, on Linux: a process that samples or trains, from its libraries to its last call.

    python -m benchmarks.memory

Each size and job of `benchmarks.speed` is a process of its own, ours or PyTorch's. What it holds is read after each stage,
and the most that it held at once during it; both beyond the libraries that it has loaded.
"""

import dataclasses
import gc
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measured import fill_page, table
from benchmarks.speed import worker
from benchmarks.speed.__main__ import PAGE, Job, SizeName
from benchmarks.speed.sizes import SIZES
from guided_jax.app import cli

STAGES = ("weights", "compiling", "first call", "further calls")
WHO = ("ours", "torch channels-last")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory of each stage."""

    sizes: tuple[SizeName, ...] = ("digits", "32x32")
    jobs: tuple[Job, ...] = ("classifier", "train")
    page: bool = False
    """Put the table into docs/performance.md."""


def read_and_reset() -> dict[str, float]:
    """Return the MiB that this process holds, and held at most since the last time."""
    status = Path("/proc/self/status").read_text()
    found = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")}  # type: ignore[index]
    Path("/proc/self/clear_refs").write_text("5")  # the maximum begins anew
    return {"held": found["VmRSS"], "peak": found["VmHWM"]}


def arrays() -> float:
    """Return the MiB of JAX's arrays, each counted once where several devices share it; 0 without JAX."""
    if "jax" not in sys.modules:
        return 0.0
    shards = [shard.data for array in sys.modules["jax"].live_arrays() for shard in array.addressable_shards]
    return sum({shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}.values()) / 2**20


def measure(size_name: str, job: str, who: str) -> dict[str, Any]:
    """Return stage -> {"held": MiB, "peak": MiB} of this process, and the MiB of the arrays that it keeps."""
    size = SIZES[size_name]
    worker.prepare(size, who)
    build = worker.module_of(who).build
    libraries, found = read_and_reset()["held"], {}

    def stage(name: str) -> None:
        found[name] = {key: value - libraries for key, value in read_and_reset().items()}

    def compiled(event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration") and seconds > 1:  # the program, and not a copy of an array
            stage("compiling")

    run = build(size, job, who)
    gc.collect()
    kept = arrays()
    stage("weights")
    if "jax" in sys.modules:
        sys.modules["jax"].monitoring.register_event_duration_secs_listener(compiled)
    run()
    stage("first call")
    for _ in range(3):
        run()
    stage("further calls")
    return {**found, "arrays": kept}


def ask(*words: str) -> dict[str, Any]:
    """Return what a process of its own measures."""
    given = "import json, sys; from benchmarks import memory; print(json.dumps(memory.measure(*sys.argv[1:])))"
    found = subprocess.run([sys.executable, "-c", given, *words], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"the process of {', '.join(words)} ended with {found.returncode}: {found.stderr[-500:]}")
    return json.loads(found.stdout.splitlines()[-1])


def row(size: str, job: str, who: str, found: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    cells = [f"{found[name]['held']:.0f}, {found[name]['peak']:.0f}" if name in found else "" for name in STAGES]
    peak = max(found[name]["peak"] for name in STAGES if name in found)
    return [size, job, who, f"{found['arrays']:.0f}" if found["arrays"] else "", *cells, f"{peak:.0f}"]


def main(args: Sequence[str]) -> None:
    """Measure, and print the table."""
    options = cli.parse(Options, "python -m benchmarks.memory", args, description=__doc__ or "")
    if not Path("/proc/self/clear_refs").exists():
        raise ValueError("/proc/self/clear_refs does not exist; this reads the memory of a process as Linux tells it")
    here = all(find_spec(name) for name in ("torch", "diffusers"))
    known = [who for who in WHO if "torch" not in who or here]
    rows = [row(size, job, who, ask(size, job, who)) for size in options.sizes for job in options.jobs for who in known]
    drawn = table(["size", "job", "program", "arrays", *STAGES, "peak"], rows)
    print(drawn)
    if options.page:
        fill_page(PAGE, {"memory": drawn})


if __name__ == "__main__":
    cli.script(main)
