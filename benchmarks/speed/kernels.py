"""How many kernels a step of guided sampling is on an H100, without one: XLA compiles for a chip that is only described.

    pip install jax-cuda13-plugin jax-cuda13-pjrt  # of jaxlib's version
    python -m benchmarks.speed.kernels 32x32-gpu classifier

What is counted are the instructions of the loop over the steps that are launched: fusions, library calls and copies.
Nothing is tuned and cuDNN is not there, so attention is the plain one and some convolutions are others than on the chip.
A trace on an H100 showed as many reductions and products, and nearly as many of the other fusions.
"""

import dataclasses
import os
import re
from collections import Counter
from typing import Annotated, Any, Literal
from unittest import mock

if __name__ == "__main__":  # before JAX looks: nothing here runs on a device
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.speed import naive, ours, sizes
from guided_jax.app import cli

# What XLA asks of a chip, as it reports it of an H100 with HBM3.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 6 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
LAUNCHED = "fusion|custom-call|copy|reduce|concatenate|dot|convolution|transpose|sort|scatter"


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile, count, print a line for each."""

    size: Annotated[Literal["digits-gpu", "32x32-gpu", "adm64-gpu"], tyro.conf.Positional]
    job: Annotated[Literal["classifier", "classifier-free"], tyro.conf.Positional]
    who: tuple[Literal["ours", "ours, fused", "scan"], ...] = ("ours", "scan")
    """scan is naive JAX."""


def compiled(function, *arguments) -> jax.stages.Compiled:
    """The program that XLA makes of the function for the chip; ValueError without the plugin."""
    try:
        chip = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x1")
    except NotImplementedError as error:
        raise ValueError(f"{error}: install jax-cuda13-plugin and jax-cuda13-pjrt {jax.__version__}") from None
    there = NamedSharding(Mesh(np.array(chip.devices), ("chip",)), PartitionSpec())
    with mock.patch.object(jax, "default_backend", return_value="gpu"):  # the networks ask which forms are fast
        lowered = jax.jit(function, in_shardings=there, out_shardings=there).lower(*arguments)
    return lowered.compile()


def launched(text: str) -> Counter[str]:
    """Kernels by kind in the largest computation that is no part of a kernel: the body of the loop."""
    found: dict[str, Counter[str]] = {}
    inside = set(re.findall(r"kind=k\w+, calls=%?([\w.\-]+)", text))  # of a fusion
    name = None
    for line in text.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = begins[1]
        made = re.match(rf"\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ({LAUNCHED})\(", line)
        if made and name not in inside:
            kind = re.sub(r"[.\d]+$", "", made[1]) if made[2] == "fusion" else made[2]
            found.setdefault(name, Counter())[kind] += 1
    return max(found.values(), key=Counter.total, default=Counter())


def step(size: sizes.Size, job: str, who: str) -> jax.stages.Compiled:
    """The compiled sampler of one of ours, or of `scan`."""
    size = size._replace(attention_kernel="plain")
    shape = (size.images, size.side, size.side, size.channels)
    x, label = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((size.images,), jnp.int32)
    params = jax.eval_shape(lambda: sizes.parameters(size))
    if who == "scan":
        return compiled(naive.scanned(size, job, naive.plain(size)), params, x, label)
    drawn = ours.drawing(size, job, ours.way(who), *(network.apply for network in sizes.networks(size)))

    def draw(params: Any, x: Any, label: Any) -> Any:
        return drawn(ours.prepared(size, params), x, label)

    return compiled(jax.vmap(draw, in_axes=(None, 0, 0)), params, x, label)


def main(args: Any) -> None:
    """Prints a line for each of those who take part."""
    options = cli.parse(Options, "python -m benchmarks.speed.kernels", args, description=__doc__ or "")
    for who in options.who:
        kinds = launched(step(sizes.SIZES[options.size], options.job, who).as_text())
        most = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
        print(f"{who}: {kinds.total()} kernels a step, of them {most}")


if __name__ == "__main__":
    cli.script(main)
