"""One competitor in a process of its own: it is told "time", and answers.

    python -m benchmarks.speed.peers.worker SIZE JOB WHO

As `benchmarks.speed.worker`, and it counts what it compiles. The job "check" prints how often a picture asks the network
in each job, and how far the pictures are from ours of the same levels, and ends.
"""

import importlib
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from benchmarks.speed.sizes import SCALE, SIZES, Size, networks, parameters
from benchmarks.speed.worker import held, prepare, say, timed, timed_again, versions
from guided_jax import models

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
MODULES = {"hackable_diffusion": "hackable", "Dew": "dew"}
ASKED: Counter = Counter()


class Counting(nn.Module):
    """A network that costs nothing and counts the pictures that it is asked for, when it runs."""

    @nn.compact
    def __call__(self, x: Any, t: Any, label: Any) -> Any:
        jax.debug.callback(lambda x, *_: ASKED.update(pictures=len(x) if x.ndim == 4 else 1), x, label)
        return 0.1 * x


def module_of(who: str) -> Any:
    """The side that `who` is on."""
    return importlib.import_module(f"benchmarks.speed.peers.{MODULES.get(who.partition(',')[0], 'ours')}")


def network(size: Size) -> tuple[nn.Module, Any]:
    """Our U-Net, and its variables as they are prepared once for all steps."""
    unet, example = networks(size)[0], (np.zeros((1, size.side, size.side, size.channels), np.float32), np.zeros(1))
    return unet, jax.jit(lambda found: models.prepare_params(unet, found, *example))(parameters(size)["unet"])


def building(size: Size, job: str, who: str) -> Callable[[], Any]:
    """What is timed."""
    side = module_of(who)
    if job == "train":
        return side.train(size, who)
    draw = side.sampling(size, job, who, *network(size))
    return lambda: [draw(scale) for scale in (SCALES if job == "eight scales" else (SCALE,))]


def calls(size: Size, job: str, who: str) -> float:
    """How often a picture asks the network."""
    few = size._replace(images=2)  # it does not depend on how many there are
    ASKED.clear()
    module_of(who).sampling(few, job, who, Counting(), {})(SCALE)
    jax.effects_barrier()
    return ASKED["pictures"] / few.images


def apart(size: Size, job: str, who: str, unet: nn.Module, variables: Any) -> float:
    """The largest difference of a pixel from ours of the same levels, noise and labels, as a share of the largest pixel."""
    from benchmarks.speed.ours import interval_of
    from benchmarks.speed.peers.ours import reference

    side = module_of(who)
    levels = side.levels_of(size.steps)
    expected = reference(size, unet, variables, levels, interval_of(levels) if job == "interval" else None)(SCALE)
    found = side.sampling(size, job, who, unet, variables)(SCALE)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check(size: Size, who: str) -> dict[str, dict[str, float]]:
    """{"calls": by job, "apart": by job}; the difference only of others than us."""
    few = size._replace(images=4)
    asked = {job: calls(size, job, who) for job in ("one scale", "interval")}
    found = {"calls": {**asked, "eight scales": len(SCALES) * asked["one scale"]}, "apart": {}}
    if who in MODULES:
        both = network(few)
        found["apart"] = {job: apart(few, job, who, *both) for job in asked}
    return found


def programs(seconds: list[float]) -> int:
    """How many were compiled: those that took a tenth of the longest at least, for single operations are compiled too."""
    return sum(each >= max(seconds) / 10 for each in seconds)


def main(name: str, job: str, who: str) -> None:
    """Prepares, and answers until the parent closes the pipe."""
    size, compiled = SIZES[name], []
    prepare(size, who)
    module_of(who)  # Dew wants to be there before JAX has its devices
    if job == "check":
        say(check(size, who))
        return
    before = held(size)  # with the libraries loaded
    run = building(size, job, who)

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    first = timed(run)
    ready = {"first": first, "programs": programs(compiled), "versions": versions()}
    if job == "eight scales":  # a further call would compile nothing
        say({**ready, "seconds": first, "memory": held(size) - before})
        return
    timed(run)
    say(ready)
    for _ in sys.stdin:
        say({"seconds": timed_again(run), "memory": held(size) - before})


if __name__ == "__main__":
    main(*sys.argv[1:])
