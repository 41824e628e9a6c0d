"""Which devices there are, and which of them to use."""

import contextlib
import os
from collections.abc import Sequence

import jax


def use_cpu_devices(count: int | None = None) -> None:
    """Splits the CPU into `count` devices, one per core this process may use when None.

    Call it before the first use of a device; later it has no effect, and it never changes accelerators. With None, a
    count already set through JAX_NUM_CPU_DEVICES, XLA_FLAGS or the jax configuration is respected. One device per
    core was measured to beat one device with a thread per core by 1.2 to 1.4 on two cores.
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
    """The devices to spread a batch over: the largest count that divides it, or exactly `requested` of them.

    With several processes they count together, and each gives equally many.
    Raises ValueError when `requested` exceeds the devices present or does not divide the batch, or the processes do not.
    """
    groups = [jax.local_devices(process_index=process) for process in range(jax.process_count())]
    present = len(groups) * min(len(group) for group in groups)
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} examples cannot be spread over devices")
    if batch_size % len(groups):
        raise ValueError(f"a batch of {batch_size} examples does not divide over {len(groups)} processes")
    if requested is None:
        requested = max(n for n in range(len(groups), present + 1, len(groups)) if batch_size % n == 0)
    if not 1 <= requested <= present:
        raise ValueError(f"{requested} devices were asked for and {present} are present")
    if requested % len(groups):
        raise ValueError(f"{requested} devices do not divide over {len(groups)} processes")
    if batch_size % requested:
        raise ValueError(f"a batch of {batch_size} examples does not divide over {requested} devices")
    return [device for group in groups for device in group[: requested // len(groups)]]


def local_devices(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Those of them that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def dividing(devices: Sequence[jax.Device], count: int) -> list[jax.Device]:
    """The first of the devices, the largest number of them that divides `count`."""
    return list(devices[: max(n for n in range(1, len(devices) + 1) if count % n == 0)])
