"""One competitor in a process of its own, so that no two thread pools work at once: it is told "time", and answers.

    python -m benchmarks.speed.worker SIZE JOB WHO

It builds, calls twice, prints what the first call cost more as a line of JSON, then one line for each timing. Two
whos, "counts" and "counts, torch", print what they count and end.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.speed.sizes import JOBS, SIZES, Size

MATMUL = 2048  # the side of the matrices that the machine's own rate is measured with
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul(size: Size, job: str, who: str) -> Callable[[], Any]:
    """A product of two square float32 matrices, by JAX with one device or by torch."""
    if who == "torch":
        import torch

        a = torch.ones(MATMUL, MATMUL)
        return lambda: a @ a
    import jax
    import jax.numpy as jnp

    a, product = jnp.ones((MATMUL, MATMUL)), jax.jit(jnp.matmul)
    return lambda: product(a, a).block_until_ready()


def module_of(who: str) -> Any:
    """The side that `who` is on."""
    name = "pytorch" if "torch" in who else "ours" if who.startswith("ours") else "naive"
    return importlib.import_module(f"benchmarks.speed.{name}")


def prepare(who: str) -> None:
    """As many threads as there are cores, or as many devices, before either is first used."""
    if "torch" in who:
        # Its threads wait for one another by turning round, by default long enough to stop everything where another
        # process wants a core too; this short they were never slower, on idle cores either.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import torch

        torch.set_num_threads(CORES)
    elif who.startswith("ours"):
        from guided_jax import parallel

        parallel.use_cpu_devices()


def counts(size: Size, who: str) -> dict[str, Any]:
    """Operations for one picture by name of the network, and how often each is asked by job and competitor."""
    from benchmarks.speed import passes

    torch = "torch" in who
    asked: dict[str, Any] = {job: {} for job in JOBS if job != "train"}
    for job, found in asked.items():
        for each in JOBS[job]:
            if ("torch" in each) == torch:
                found[each] = passes.of_torch(size, job) if torch else passes.of_jax(size, job, each)
    if torch:
        return {"torch": module_of(who).flops(size), "passes": asked}
    from benchmarks.speed import flops

    ours, xla = (flops.of_networks(size, rule) for rule in (flops.by_torch_rules, flops.by_xla))
    return {"ours": ours, "xla": xla, "passes": asked}


def resident() -> float:
    """The most memory that this process has held at once, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def versions() -> dict[str, str]:
    """Of the packages that this process has loaded."""
    names = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers", "numpy")
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def say(message: dict[str, Any]) -> None:
    """One line to the parent."""
    print(json.dumps(message), flush=True)


def main(size: str, job: str, who: str) -> None:
    """Prepares, and answers until the parent closes the pipe."""
    if who.startswith("counts"):
        say(counts(SIZES[size], who))
        return
    prepare(who)
    build = matmul if job == "matmul" else module_of(who).build
    before = resident()  # with the libraries loaded
    run = build(SIZES[size], job, who)
    first, again = timed(run), timed(run)
    say({"compile": max(0.0, first - again), "versions": versions()})
    for _ in sys.stdin:
        say({"seconds": timed(run), "memory": resident() - before})


if __name__ == "__main__":
    main(*sys.argv[1:])
