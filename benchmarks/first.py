"""The first picture and the first step of training: from the command to its end, with an empty and with a full cache.

    python -m benchmarks.first

Whole commands are started, of untrained networks of the sizes of `benchmarks.speed`: `train` for one step, and `sample` for
four pictures by 20 steps of DDIM with classifier-free guidance. Cold is the first start with an empty cache of compiled
programs, warm the next one. CPU seconds are those of all threads: what a busy machine takes longer for, they hide.
"""

import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measured import fill_page, table
from benchmarks.speed.__main__ import PAGE
from benchmarks.speed.sizes import ADM64, SIZES, Size
from guided_jax.app import cli

KNOWN = {"digits": SIZES["digits"], "32x32": SIZES["32x32"], "adm64": ADM64._replace(batch=2)}
DRAWN = ("--guidance", "classifier-free", "--scale", "2", "--num-samples", "4", "--sampler", "ddim")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the first picture and the first step of training."""

    sizes: tuple[str, ...] = ("digits", "32x32")
    """Of digits, 32x32 and adm64, whose training needs 16 GB of memory."""
    steps: int = 20
    """Of `sample`."""
    page: bool = False
    """Put the table into docs/performance.md."""


def flags(size: Size, place: Path) -> list[str]:
    """Return the options of `train` for one step of a network of this size, on pictures of noise."""
    count = max(4 * size.batch, size.num_classes)
    pictures = np.random.default_rng(0).integers(0, 256, (count, size.side, size.side, size.channels), np.uint8)
    np.savez(place / "pictures.npz", images=pictures, labels=np.arange(count) % size.num_classes)
    network = {
        "model-channels": [size.width],
        "channel-mult": size.channel_mult,
        "num-res-blocks": [size.num_res_blocks],
        "attention-resolutions": size.attention,
        "num-head-channels": [size.head_channels],
        "num-groups": [size.num_groups],
    }
    words = [word for name, values in network.items() for word in (f"--diffusion.network.{name}", *map(str, values))]
    words += [f"--diffusion.network.{'' if size.resblock_updown else 'no-'}resblock-updown"]
    words += ["--data.name", f"npz:{place / 'pictures.npz'}", "--data.dir", str(place / "data")]
    words += ["--diffusion.batch-size", str(size.batch), "--diffusion.sample-every", "0", "--diffusion.eval-every", "0"]
    return [*words, "--diffusion.num-steps", "1", "--classifier.num-steps", "0"]


def start(words: Sequence[str]) -> tuple[float, float]:
    """Run a command of guided-jax to its end; return its CPU seconds and its seconds."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, "-m", "guided_jax", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"guided-jax {' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - clock


def measure(name: str, steps: int) -> list[list[str]]:
    """Return the rows of a size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        given, cache = flags(KNOWN[name], place), ["--compilation-cache", str(place / "cache")]
        run = place / "cold"
        jobs = {
            "training, one step": lambda when: ["train", "digits", "--out", str(place / when), *given],
            f"4 pictures, {steps} steps": lambda when: (
                ["sample", str(run), *DRAWN, "--steps", str(steps), "--out", str(place / f"drawn-{when}")]
            ),
        }
        for job, words in jobs.items():
            found = [number for when in ("cold", "warm") for number in start([*words(when), *cache])]
            rows.append([name, job, *(f"{number:.0f}" for number in found)])
            print(", ".join(rows[-1]), flush=True)
    return rows


def main(args: Sequence[str]) -> None:
    """Measure what is asked for, and print the table."""
    options = cli.parse(Options, "python -m benchmarks.first", args, description=__doc__ or "")
    if unknown := [name for name in options.sizes if name not in KNOWN]:
        raise ValueError(f"there is no size {unknown[0]!r}; there is {', '.join(KNOWN)}")
    rows = [row for name in options.sizes for row in measure(name, options.steps)]
    head = ["size", "command", "cold: CPU s", "s", "warm: CPU s", "s"]
    text = table(head, rows)
    print(f"\n{text}")
    if options.page:
        fill_page(PAGE, {"first": text})


if __name__ == "__main__":
    cli.script(main)
