"""One row by one program in a process of its own, which ends with it and gives the chip's memory back.

    python -m benchmarks.accelerator.worker NETWORK JOB WHO

JOB "matmul" is the product of two matrices, by JAX or torch. It answers as `benchmarks.speed.worker` does.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.accelerator.sizes import NETWORKS, Row
from benchmarks.speed import worker


def prepare(who: str, cpu: bool) -> None:
    """No more of the chip's memory than is needed, for other rows compile beside this one; JAX finds the chip itself."""
    if "torch" in who:
        worker.prepare(NETWORKS["adm64"].work, who)
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"


def started(row: Row, who: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return what is timed, after its first two calls, and what there is to say about it."""
    work = NETWORKS[row.network].work
    if row.job == "matmul":
        run = worker.matmul(work, row.job, who)
    elif "torch" in who:
        from benchmarks.accelerator import theirs

        run = theirs.build(row, who)
    else:
        return started_ours(row)
    first, again = worker.timed(run), worker.timed(run)
    return run, {"compile": max(0.0, first - again)}


def started_ours(row: Row) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The same of ours, with cuDNN's attention where it computes this network, and plain attention elsewhere."""
    import jax

    from benchmarks.accelerator import ours

    kernels = ("cudnn", "plain") if jax.default_backend() == "gpu" else ("plain",)
    for attention in kernels:
        try:
            run = ours.build(row, attention)
            first, again = worker.timed(run), worker.timed(run)
        except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
            if attention == kernels[-1] or "RESOURCE_EXHAUSTED" in str(error):
                raise
            print(f"{row.network}: not with {attention}'s attention: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        found = {"compile": max(0.0, first - again), "attention": attention}
        return run, found | {"operations": ours.operations(row)}
    raise RuntimeError("no kernel of attention was tried")


def held(cpu: bool) -> float:
    """The most memory held at once, in MiB: of the chip, or of this process."""
    return worker.held(NETWORKS["adm64"].work._replace(device="cpu" if cpu else "gpu"))


def name_of_chip(cpu: bool) -> str:
    """What the device is called."""
    return "CPU" if cpu else worker.device(NETWORKS["adm64"].work) or "CPU"


def main(name: str, job: str, who: str) -> None:
    """Answer until the parent closes the pipe."""
    row, cpu = Row(name, job), NETWORKS[name].work.device == "cpu"
    prepare(who, cpu)
    run, found = started(row, who)
    worker.say(found | {"versions": worker.versions(), "device": name_of_chip(cpu)})
    for _ in sys.stdin:
        worker.say({"seconds": worker.timed(run), "memory": held(cpu)})


if __name__ == "__main__":
    main(*sys.argv[1:])
