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

from benchmarks.speed.sizes import MATMUL, SIZES, Size, jobs

REPEATS = 3  # calls of a timing
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul(size: Size, job: str, who: str) -> Callable[[], Any]:
    """Products of two square matrices of the networks' own type, by JAX with one device or by torch."""
    side, repeats = MATMUL[size.device]
    if who == "torch":
        import torch

        from benchmarks.speed import pytorch

        a = torch.randn(side, side, dtype=getattr(torch, size.dtype), device=pytorch.place(size))
        return lambda: pytorch.finished([a @ a for _ in range(repeats)])
    import jax

    a, product = jax.random.normal(jax.random.key(0), (side, side), size.dtype), jax.jit(lambda a: a @ a)
    return lambda: jax.block_until_ready([product(a) for _ in range(repeats)])


def module_of(who: str) -> Any:
    """The side that `who` is on."""
    name = "pytorch" if "torch" in who else "ours" if who.startswith("ours") else "naive"
    return importlib.import_module(f"benchmarks.speed.{name}")


def prepare(size: Size, who: str) -> None:
    """As many threads as there are cores, or as many devices, before either is first used; and no more memory of a GPU
    than is needed, for all are there at once."""
    if "torch" in who:
        # Its threads wait for one another by turning round, by default long enough to stop everything where another
        # process wants a core too; this short they were never slower, on idle cores either.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import torch

        torch.set_num_threads(CORES)
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX has it; without effect on CPU
        return
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[size.device]
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if who.startswith("ours"):
        from guided_jax import parallel

        parallel.use_cpu_devices()


def counts(size: Size, who: str) -> dict[str, Any]:
    """Operations for one picture by name of the network, and how often each is asked by job and competitor."""
    from benchmarks.speed import passes

    torch = "torch" in who
    few = size._replace(images=2)  # how often a picture asks does not depend on how many there are
    asked: dict[str, Any] = {job: {} for job in jobs(size) if job != "train"}
    for job, found in asked.items():
        for each in jobs(size)[job]:
            if ("torch" in each) == torch:
                found[each] = passes.of_torch(few, job) if torch else passes.of_jax(few, job, each)
    if torch:
        return {"torch": module_of(who).flops(size), "passes": asked}
    from benchmarks.speed import flops

    ours, xla = (flops.of_networks(size, rule) for rule in (flops.by_torch_rules, flops.by_xla))
    return {"ours": ours, "xla": xla, "passes": asked}


def held(size: Size) -> float:
    """The most memory that this process has held at once, of the device, in MiB."""
    if size.device == "gpu" and "jax" in sys.modules:
        return sys.modules["jax"].devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    if size.device == "gpu":
        return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def versions() -> dict[str, str]:
    """Of the packages that this process has loaded."""
    names = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers", "numpy", "hackable_diffusion", "dew")
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def timed_again(run: Callable[[], Any]) -> float:
    """Seconds of a call: the mean of `REPEATS`, after one call that is not timed.

    While the others have their turns the system takes back the memory that the last call freed. On a virtual machine, to
    allocate it again can take twice as long as a training step.
    """
    run()
    return timed(lambda: [run() for _ in range(REPEATS)]) / REPEATS


def say(message: dict[str, Any]) -> None:
    """One line to the parent."""
    print(json.dumps(message), flush=True)


def main(name: str, job: str, who: str) -> None:
    """Prepares, and answers until the parent closes the pipe."""
    size = SIZES[name]
    if who.startswith("counts"):
        os.environ["JAX_PLATFORMS"] = "cpu"
        say(counts(size, who))
        return
    prepare(size, who)
    build = matmul if job == "matmul" else module_of(who).build
    before = held(size) if size.device == "cpu" else 0  # with the libraries loaded
    run = build(size, job, who)
    first, again = timed(run), timed(run)
    say({"compile": max(0.0, first - again), "versions": versions(), "device": device(size)})
    for _ in sys.stdin:
        say({"seconds": timed_again(run), "memory": held(size) - before})


def device(size: Size) -> str | None:
    """What the GPU is called."""
    if size.device == "cpu":
        return None
    return (
        sys.modules["jax"].devices()[0].device_kind
        if "jax" in sys.modules
        else sys.modules["torch"].cuda.get_device_name()
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
