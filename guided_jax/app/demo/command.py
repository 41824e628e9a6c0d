"""Train on digits, draw guided ones at several scales, judge them, print the table."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from guided_jax.app import cli

PAGE = """usage: guided-jax demo [OPTIONS]

Train a U-Net and a noisy classifier on 8x8 handwritten digits, draw guided ones at several scales,
and judge them with a support vector machine that guided nothing. No download, no GPU. About four
minutes on two CPU cores; the same command again resumes, or only draws.

  --out FOLDER         the run, with the table and the picture in FOLDER/demo (default: runs/digits)
  --num-samples N      pictures for each guidance and scale (default: 250)
  --scales S ...       guidance scales (default: 0 1 2 3 5)
  --steps N            DDIM steps (default: 50)
  --experiment E       another experiment with labels, by name or by file (default: digits)

example: guided-jax demo --num-samples 500 --scales 0 1 3
also:    guided-jax demo emoji, which draws from words (--help)"""
NEXT = """three commands to try next:
  guided-jax sample {out} --guidance classifier-free --scale 3 --labels 3 7 --out {out}/samples
  guided-jax nll {out} --num-samples 100
  guided-jax train digits --out runs/digits-v --diffusion.parameterization v"""


@dataclasses.dataclass(frozen=True)
class Demo:
    """The options of `guided-jax demo`."""

    out: Path = Path("runs/digits")
    """The run that is trained; the table and the picture go into its folder demo."""
    num_samples: int = 250
    """Pictures for each guidance and scale."""
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 5.0)
    """Guidance scales."""
    steps: str = "50"
    """DDIM steps."""
    experiment: str = "digits"
    """The experiment that is trained, by name or by file; its pictures have labels."""


def main(args: Sequence[str]) -> None:
    """Train, or resume, or find it done; draw, judge, print."""
    if args and args[0] == "emoji":
        from guided_jax.app.demo import emoji

        return emoji.main(args[1:])
    start, options = time.monotonic(), cli.parse(Demo, "guided-jax demo", args, description=PAGE)
    announce(options)
    # After the announcement: these take seconds to import.
    from guided_jax import parallel
    from guided_jax.app import experiments
    from guided_jax.app import run as runs
    from guided_jax.app.demo import comparison
    from guided_jax.app.train import command as train
    from guided_jax.storage.files import replacing

    parallel.use_cpu_devices()
    experiment = experiments.load(options.experiment)
    comparison.check(experiment, options.steps)
    known, real = (comparison.everything(experiment.data.make(held_out)) for held_out in (False, True))
    train.main([options.experiment, "--out", str(options.out)])
    run = runs.load(options.out)
    count, judge = options.num_samples, comparison.fit_judge(known)
    rows, samples = comparison.compare(count, options.scales, options.steps, run, judge, real["image"])
    text = comparison.table(rows, *comparison.real_row(count, judge, known, real))
    path = comparison.save_picture(options.out / "demo" / "digits.png", samples, run)
    with replacing(options.out / "demo" / "table.md") as file:
        file.write(f"{text}\n".encode())
    with replacing(options.out / "demo" / "table.json") as file:
        file.write(json.dumps(rows, indent=2).encode())
    print(f"\n{text}\n\npicture: {path}\ntime: {time.monotonic() - start:.0f} s\n\n{NEXT.format(out=options.out)}")


def announce(options: Demo) -> None:
    """Print what the demo will do and how long it takes, at once."""
    scales = " ".join(f"{scale:g}" for scale in options.scales)
    print(
        f"guided-jax demo: train a U-Net and a classifier on {options.experiment} into {options.out}, draw "
        f"{options.num_samples} pictures with\nclassifier and with classifier-free guidance at the scales {scales}, and "
        "judge them. With the defaults this takes about\nfour minutes on two CPU cores. Stop it at any time; the same "
        "command goes on.",
        flush=True,
    )
