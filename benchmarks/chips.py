"""docs/howto/machines.md: memory and collectives of a chip, by compiling for machines that are only described.

    pip install libtpu  # the version that jax[tpu] asks for; no TPU is needed
    python -m benchmarks.chips edm2-xxl --chips 8 64

Compiles the training step of `--shard-parameters` and a step of guided sampling for TPUs, from shapes alone: no weights
are allocated and nothing runs. What a chip holds of the state is arithmetic, which `--uncompiled` prints alone; what the
program needs beside it and the collectives are what XLA's compiler for the chip says. A network is compiled in minutes
of many cores; `--uncompiled` leaves that out.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from unittest import mock

if __name__ == "__main__":  # before JAX looks: nothing here runs on a device
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies

from benchmarks import collectives
from benchmarks.measured import fill_page, table
from guided_jax import denoiser, guidance, reverse, sampler, schedule, training
from guided_jax.app import cli
from guided_jax.parallel import sharded
from guided_jax.pretrained import edm2
from guided_jax.pretrained.published.stable_diffusion_configs import XL
from guided_jax.pretrained.stable_diffusion import unet
from guided_jax.storage.files import replacing

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "machines.md"
GIB = 2**30
TOPOLOGIES = {"v5p": {8: "2x2x2", 64: "4x4x4"}, "v6e": {8: "2x4", 64: "8x8"}, "v5e": {8: "2x4", 64: "8x8"}}
MEMORY = {"v5p": 95, "v6e": 32, "v5e": 16}  # GiB of a chip, by Google's pages
SIGMA_DATA = 0.5
# Width and dropout of [EDM2] tables 6 and 7; the networks of 512 pixels, on latents of 64 x 64 x 4.
WIDTHS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
# XLA for TPUs tries fewer schedules and tilings: the same collectives, in a part of the time.
QUICK = {"exec_time_optimization_effort": -1.0}
OPTIMIZER = training.optimizer(1e-4, 100_000, warmup_steps=100)


class Case(NamedTuple):
    """A network by its shapes. train, draw: the step of training, and one example's guided sample; x: of an example."""

    params: Any
    x: jax.ShapeDtypeStruct
    condition: Any
    network: Callable[..., Any]  # (params, x, time, condition) -> output, any leading axes
    denoise: Callable[..., Any]  # (params, condition) -> Denoiser, of one example
    levels: schedule.NoiseLevel
    diffuse: Callable[..., Any]  # (x_0, eps, u) -> (input, time, target), u uniform in (0, 1)


def edm2_config(size: str) -> dict[str, int]:
    """The arguments of the networks of 512 pixels."""
    return {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": WIDTHS[size]}


def edm2_case(config: dict[str, Any], **fields: Any) -> Case:
    """EDM2 of these arguments. fields: of the network, such as remat."""
    module = edm2.make_network(config, jnp.bfloat16).clone(**fields)

    def network(params: Any, x: Any, c_noise: Any, label: Any) -> Any:
        return module.apply(params, x, c_noise, label)

    def denoise(params: Any, label: Any) -> Any:
        return denoiser.edm(lambda x, c_noise: network(params, x, c_noise, label), SIGMA_DATA)

    def diffuse(x_0: Any, eps: Any, u: Any) -> Any:
        """F's input and target, [EDM] table 1; ln sigma normal as [EDM2] has it."""
        sigma = jnp.exp(-0.4 + jax.scipy.stats.norm.ppf(u))
        norm = jnp.sqrt(sigma**2 + SIGMA_DATA**2)
        x_t = x_0 + sigma * eps
        target = (x_0 - x_t * (SIGMA_DATA / norm) ** 2) * norm / (sigma * SIGMA_DATA)
        return x_t / norm, jnp.log(sigma) / 4, target

    side = config["img_resolution"]
    x, label = jax.ShapeDtypeStruct((side, side, 4), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    return Case(edm2.shapes(module), x, label, network, denoise, schedule.karras(32, 0.002, 80.0), diffuse)


def text_case(config: dict[str, Any], text: dict[str, tuple[int, ...]], **fields: Any) -> Case:
    """A U-Net of Stable Diffusion. text: the shapes of what it is told; fields: of the network."""
    module = unet.make_unet(config, jnp.bfloat16).clone(**fields)

    def network(params: Any, x: Any, time: Any, condition: Any) -> Any:
        return module.apply(params, x, time, **condition)

    condition = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in text.items()}
    return eps_case(unet.shapes(module), config["sample_size"], network, condition)


def eps_case(params: Any, side: int, network: Callable[..., Any], condition: Any) -> Case:
    """A network that predicts eps of latents (side, side, 4)."""
    levels = schedule.linear(1000)

    def denoise(params: Any, condition: Any) -> Any:
        return denoiser.from_network(lambda x, time: network(params, x, time, condition))

    def diffuse(x_0: Any, eps: Any, u: Any) -> Any:
        """x_t, t - 1 and eps, of t uniform in 1..1000."""
        level = schedule.at(levels, 1 + jnp.int32(u * 1000))
        return level.alpha * x_0 + level.sigma * eps, denoiser.network_time(level), eps

    x = jax.ShapeDtypeStruct((side, side, 4), jnp.float32)
    return Case(params, x, condition, network, denoise, schedule.respace(levels, 30), diffuse)


XL_TEXT = {"context": (77, 2048), "pooled": (1280,), "time_ids": (6,)}
CASES: dict[str, Callable[[], Case]] = {
    **{f"edm2-{size}": functools.partial(edm2_case, edm2_config(size), remat=True) for size in WIDTHS},
    "sdxl": functools.partial(text_case, XL["unet"], XL_TEXT, remat=True),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile for described chips, and print a row for each."""

    networks: Annotated[tuple[Literal[tuple(CASES)], ...], tyro.conf.Positional] = ("edm2-xs", "edm2-xxl", "sdxl")  # type: ignore[valid-type]
    jobs: tuple[Literal["train", "sample"], ...] = ("train", "sample")
    chip: Literal["v5p", "v6e", "v5e"] = "v5p"
    chips: tuple[Literal[8, 64], ...] = (8, 64)
    batch: int = 8
    """Pictures on a chip in a step of training, and one eighth of it in sampling."""
    groups: tuple[int, ...] = (0, 8)
    """Divide the parameters over so many neighbouring chips, as --shard-group does; 0 for all of them."""
    uncompiled: tuple[Literal[tuple(CASES)], ...] = ()  # type: ignore[valid-type]
    """Networks of which only the arithmetic is done: the share of the state that a chip holds."""
    out: Path | None = None
    """Keep the compiled rows in this JSON file; a row that it has is not compiled again."""
    page: bool = False
    """Put the table into docs/howto/machines.md."""


def loss(case: Case, params: Any, keys: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The mean square of the network's error, one key an example."""

    def corrupt(key: Any, x_0: Any) -> Any:
        of_noise, of_time = jax.random.split(key)
        return case.diffuse(x_0, jax.random.normal(of_noise, x_0.shape), jax.random.uniform(of_time, minval=1e-4))

    x, t, target = jax.vmap(corrupt)(keys, batch["image"])
    output = case.network(params, x, t, batch["condition"])
    return jnp.mean((output - target) ** 2), {}


def placed(tree: Any, sharding: Callable[[Any], Any]) -> Any:
    """The shapes with the sharding that each leaf has."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(leaf)), tree)


def rows_of(tree: Any, count: int, devices: Any, group: int | None) -> Any:
    """The shapes of so many examples, divided over the devices."""
    row = sharded.mesh_sharding(devices, sharded.ROWS, group=group)
    return placed(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), tree), lambda leaf: row
    )


def lower_training(case: Case, devices: Any, batch: int, group: int | None) -> Any:
    """The lowered step of `--shard-parameters`."""
    of_whole = sharded.gathered(functools.partial(loss, case), devices, group)
    step = functools.partial(training.train_step, loss=of_whole, optimizer=OPTIMIZER, ema_decay=0.999)
    state = placed(state_of(case, "train"), sharded.leaf_sharding(devices, group))
    count = batch * len(devices)
    given = rows_of({"image": case.x, "condition": case.condition}, count, devices, group)
    indices = rows_of(jax.ShapeDtypeStruct((), jnp.int32), count, devices, group)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return sharded.jit_step(step, shardings, devices).lower(state, given, indices)


def lower_sampling(case: Case, devices: Any, batch: int, group: int | None) -> Any:
    """The lowered sampler, classifier-free guidance with DDIM, as `sharded_map` compiles it."""

    def draw(params: Any, key: Any, condition: Any, null: Any, scale: Any) -> Any:
        denoise = guidance.classifier_free(case.denoise(params, condition), case.denoise(params, null), scale)
        top = schedule.at(case.levels, -1)
        x_T = top.sigma * jax.random.normal(key, case.x.shape)
        return sampler.sample(key, denoise, reverse.ddim(), x_T, case.levels)

    count = batch * len(devices)
    params = placed(state_of(case, "sample"), sharded.leaf_sharding(devices, group))
    key = jax.eval_shape(lambda: jax.random.key(0))
    number = jax.ShapeDtypeStruct((), jnp.float32)
    rows = [rows_of(each, count, devices, group) for each in (key, case.condition, case.condition, number)]
    return jax.jit(jax.vmap(draw, (None, 0, 0, 0, 0))).lower(params, *rows)


def share(tree: Any, chips: int) -> int:
    """Bytes that a chip holds of a tree of shapes, divided as by `leaf_sharding`."""
    each = (leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    sizes = ((leaf.shape, math.prod(leaf.shape) * leaf.dtype.itemsize) for leaf in each)
    return sum(size if sharded.divided_axis(shape, chips) is None else size // chips for shape, size in sizes)


def state_of(case: Case, job: str) -> Any:
    """The shapes of what is on the chips before a step: the weights, of training with averages and both moments."""
    if job == "sample":
        return case.params
    return jax.eval_shape(lambda params: training.init(jax.random.key(0), params, OPTIMIZER), case.params)


def lower(case: Case, job: str, chip: str, chips: int, batch: int, group: int | None = None) -> Any:
    """The lowered program for so many described chips; ValueError where they cannot be described."""
    try:
        described = topologies.get_topology_desc(f"{chip}:{TOPOLOGIES[chip][chips]}", "tpu")
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"TPUs cannot be described ({str(error).splitlines()[0]}); pip install libtpu") from None
    make = {"train": lower_training, "sample": lower_sampling}[job]
    with mock.patch.object(jax, "default_backend", return_value="tpu"):  # the networks ask which forms are fast
        return make(case, list(described.devices), batch, group)


def measure(name: str, job: str, chips: int, group: int, options: Options) -> dict[str, Any]:
    """A row: what a chip holds and does, in bytes."""
    case, batch = CASES[name](), options.batch if job == "train" else max(1, options.batch // 8)
    row: dict[str, Any] = {"network": name, "job": job, "chip": options.chip, "chips": chips, "batch": batch}
    row["parameters"] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(case.params))
    row |= {"group": group} if group else {}
    row["state"] = share(state_of(case, job), group or chips)
    if name in options.uncompiled:
        return row
    start = time.monotonic()
    program = lower(case, job, options.chip, chips, batch, group or None).compile(QUICK)
    memory = program.memory_analysis()
    # The new state takes the place of the old one: `alias` are the bytes of the output that do.
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    row["temporaries"] = memory.temp_size_in_bytes
    row["peak"] = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    row["collectives"] = collectives.count(program.as_text(), chips)
    return {**row, "seconds": round(time.monotonic() - start, 1)}


def measure_all(options: Options) -> list[dict[str, Any]]:
    """The rows, those of the file as they are."""
    kept = json.loads(options.out.read_text()) if options.out and options.out.is_file() else []
    if wrong := [(n, size) for n, size in itertools.product(options.chips, options.groups) if size and n % size]:
        raise ValueError("--groups {1} does not divide {0} chips; give a size that does".format(*wrong[0]))
    found = []
    for name, job, chips, group in itertools.product(options.networks, options.jobs, options.chips, options.groups):
        if group == chips and 0 in options.groups:  # all of them, which is a row already
            continue
        asked = {"network": name, "job": job, "chip": options.chip, "chips": chips, "group": group}
        same = [row for row in kept if asked.items() <= {"group": 0, **row}.items() and "peak" in row]
        found.append(same[0] if same else measure(name, job, chips, group, options))
        print(json.dumps(found[-1]), flush=True)
        if options.out and not same and "peak" in found[-1]:
            kept.append(found[-1])
            with replacing(options.out) as file:
                file.write(json.dumps(kept, indent=1).encode())
    return found


def lines(rows: list[Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    head = (
        "network",
        "job",
        "chips",
        "pictures a chip",
        "state",
        "temporaries",
        "peak",
        "collectives of a chip a step",
    )
    gib = lambda row, name: f"{row[name] / GIB:.2f} GiB" if name in row else "not compiled"  # noqa: E731
    body = [
        [
            f"{row['network']}, {row['parameters'] / 1e6:.0f} M",
            *(row["job"], f"{row['chips']} {row['chip']}{in_groups(row)}", str(row["batch"])),
            *(gib(row, name) for name in ("state", "temporaries", "peak")),
            collectives.describe(row["collectives"]) if "collectives" in row else "not compiled",
        ]
        for row in rows
    ]
    return table(head, body)


def in_groups(row: Mapping[str, Any]) -> str:
    """Return what a row of --groups says of its chips: in groups of 8."""
    return f", in groups of {row['group']}" if "group" in row else ""


def main(args: Any) -> None:
    """Prints a line for each row and the table."""
    options = cli.parse(Options, "python -m benchmarks.chips", args, description=__doc__ or "")
    text = lines(measure_all(options))
    print(f"\n{text}")
    if options.page:
        fill_page(PAGE, {"chips": text})


if __name__ == "__main__":
    cli.script(main)
