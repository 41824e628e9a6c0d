"""A process that runs several commands on a run, one after another, alone or with others of its kind.

python -m tests.together_process RUN OUT DIVIDED [COORDINATOR PROCESSES ID]

DIVIDED: --shard-parameters for what is drawn, with its options, or - for weights that are whole on every device.
"""

import importlib
from pathlib import Path

from guided_jax import parallel
from guided_jax.app import cli, together


def commands(run: Path, out: Path, divided: list[str]) -> list[list[str]]:
    """The command lines, each with its name first."""
    guided = ["--guidance", "classifier-free", "--steps", "3", "--num-samples", "20", "--batch-size", "8", *divided]
    judge, few = str(out / "judge"), ["--num-samples", "12"]
    return [
        ["judge", str(run), "--num-steps", "4", "--batch-size", "16", "--channels", "8", "8", "--out", judge],
        ["sample", str(run), *guided, "--scale", "2", "--seed", "1", "--diagnose", "--out", str(out / "drawn")],
        ["metrics", str(out / "drawn" / "samples.npz"), str(out / "drawn" / "samples.npz"), "--judge", judge],
        ["nll", str(run), *few, "--batch-size", "4", "--out", str(out / "bits")],
        ["sweep", str(run), *guided, "--scales", "0,2", "--seeds", "1", "--judge", judge, "--out", str(out / "sweep")],
    ]


def main(run: str, out: str, divided: str, *where: str) -> None:
    settings = together.Distributed()
    if where:
        settings = together.Distributed(False, where[0], int(where[1]), int(where[2]))
    with together.joined("sample", settings):
        for name, *words in commands(Path(run), Path(out), [] if divided == "-" else divided.split()):
            importlib.import_module(f"guided_jax.app.{cli.COMMANDS[name][0]}").main(words)
        print(f"process {parallel.share()[0]} is done")


if __name__ == "__main__":
    cli.script(lambda words: main(*words))
