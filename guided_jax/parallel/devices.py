"""The choice of devices: how many the CPU counts as, which of them share a batch, and XLA's options for their programs."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence

import jax

from guided_jax.numerics import is_traced


def use_cpu_devices(count: int | None = None) -> None:
    """Split the CPU into `count` devices, by default one for each core that this process may use.

    Call it before the first use of a device; later it has no effect, and it never changes accelerators. Without `count`
    a number already set through JAX_NUM_CPU_DEVICES, XLA_FLAGS or the jax configuration is kept. One device a core was
    measured to be 1.2 to 1.4 times as fast as one device with two threads, on two cores.
    """
    if count is None:
        chosen = getattr(jax.config, "jax_num_cpu_devices", -1) > 0
        if chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        affinity = getattr(os, "sched_getaffinity", None)
        count = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # the devices exist already: they stay as they are
        jax.config.update("jax_num_cpu_devices", count)


def choose_devices(batch_size: int, requested: int | None = None) -> list[jax.Device]:
    """Return the devices to spread a batch over: the largest count that divides it, or exactly `requested` of them.

    batch_size: examples, over all processes. With several processes the devices count together, and each process gives
    equally many. ValueError when `requested` exceeds the devices present or does not divide the batch, or when the number
    of processes divides neither.

    >>> len(choose_devices(7)) in (1, 7)
    True
    >>> choose_devices(8, requested=1) == jax.devices()[:1]
    True
    """
    groups = [jax.local_devices(process_index=process) for process in range(jax.process_count())]
    present = len(groups) * min(len(group) for group in groups)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a batch has at least 1 example")
    if batch_size % len(groups):
        raise ValueError(f"a batch of {batch_size} examples does not divide over {len(groups)} processes")
    if requested is None:
        requested = max(n for n in range(len(groups), present + 1, len(groups)) if batch_size % n == 0)
    if not 1 <= requested <= present:
        raise ValueError(f"{requested} devices are requested and {present} are present")
    if requested % len(groups):
        raise ValueError(f"{requested} devices do not divide over {len(groups)} processes")
    if batch_size % requested:
        raise ValueError(f"a batch of {batch_size} examples does not divide over {requested} devices")
    return [device for group in groups for device in group[: requested // len(groups)]]


def local_devices(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Return the devices that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def dividing_prefix(devices: Sequence[jax.Device], count: int) -> list[jax.Device]:
    """Return the first n of the devices, n being the largest number that divides `count`.

    Of several processes each gives equally many; ValueError when `count` does not divide over them.
    """
    groups = [[d for d in devices if d.process_index == p] for p in sorted({d.process_index for d in devices})]
    if count % len(groups):
        raise ValueError(f"a batch of {count} examples does not divide over {len(groups)} processes")
    n = max(n for n in range(1, len(groups[0]) + 1) if count % (n * len(groups)) == 0)
    return [device for group in groups for device in group[:n]]


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, int]:
    """Return XLA's options for a program of these devices, for `jax.stages.Lowered.compile`.

    On CPU this is LLVM's first level of optimization instead of the third. For the networks here, whose convolutions and
    products are library calls, it was measured to give the same bits at the same speed in two thirds of the compile time,
    in sampling and in training alike.
    """
    return {"xla_backend_optimization_level": 1} if devices[0].platform == "cpu" else {}


def jit(fn: Callable) -> Callable:
    """Return `jax.jit(fn)` with `compiler_options` of the devices of this process, which are looked up at the first call.

    fn: of arrays alone, by position. It is called as it is where an argument is traced, as under `jax.jit` and `jax.grad`:
    JAX takes compiler options on the outermost function only.
    """

    @functools.cache
    def compiled():
        return jax.jit(fn, compiler_options=compiler_options(jax.local_devices()))

    return functools.wraps(fn)(lambda *arguments: (fn if is_traced(arguments) else compiled())(*arguments))
