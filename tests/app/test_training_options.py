"""Fourteen kinds of training as a user starts them: in a process of their own, compiled with the options of the commands.

The fast tests compile with others, for less time; a fault between JAX and the commands' own once passed them all.
"""

import subprocess
import sys

import numpy as np
import pytest

from guided_jax.storage import log
from tests.scripts import NETWORKS, ROOT, STEPS, alone

ONE_STEP = [
    *("--diffusion.num-steps", "1", "--diffusion.sample-every", "0", "--diffusion.eval-examples", "8"),
    *("--classifier.num-steps", "0", "--autoencoder.num-steps", "0"),
]
FROM = "{run}"
KINDS = {
    "divided": "--shard-parameters --diffusion.remat --diffusion.microbatches 2 --diffusion.optimizer.weight-decay 0.1",
    "replicated": "--diffusion.remat --diffusion.remat-keep products --diffusion.microbatches 2 --data.flip",
    "fine-tuned": f"--diffusion.init-from {FROM}",
    "fine-tuned and divided": f"--diffusion.init-from {FROM} --shard-parameters",
    "distilled": f"--diffusion.distill-from {FROM}",
    "a classifier for another run": f"--diffusion.num-steps 0 --diffusion.from {FROM} --classifier.num-steps 1",
    "another start of the classifier": f"--diffusion.num-steps 0 --classifier.num-steps 1 --classifier.init-from {FROM}",
    "its own prediction": "--diffusion.self-conditioning --diffusion.learned-variance --diffusion.weighting.name min-snr",
    "an inner head": "--diffusion.network.internal-head middle_block --diffusion.power-ema 0.05 0.1",
    "a transformer of flow": (
        "--diffusion.architecture dit --diffusion.transformer.hidden-size 32 --diffusion.transformer.depth 2"
        " --diffusion.transformer.num-heads 2 --diffusion.parameterization flow --schedule.name flow"
        " --diffusion.times.law logit-normal"
    ),
    "half precision": "--diffusion.network.dtype bfloat16 --diffusion.optimizer.decay cosine --diffusion.ema-decay 0",
    "an upsampler": "--diffusion.low-res 4 --diffusion.network.dropout 0.1",
    "latents": "--autoencoder.num-steps 1 --autoencoder.batch-size 8",
    "one device": "--devices 1 --diffusion.steps-per-dispatch 2 --diffusion.num-steps 2",
}


def train(words, out):
    """Run `guided-jax train digits` for one step; the last words win."""
    small = [*STEPS, *([] if "dit" in words else NETWORKS), *ONE_STEP]
    command = [sys.executable, "-m", "guided_jax", "train", "digits", "--out", str(out), *small, *words]
    return subprocess.run(command, env=alone(PYTHONPATH=str(ROOT)), capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step of both networks."""
    out = tmp_path_factory.mktemp("trained") / "run"
    done = train(["--classifier.num-steps", "1"], out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains(kind, trained, tmp_path):
    done = train(KINDS[kind].replace(FROM, str(trained)).split(), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    losses = {path.parent.name: log.read(path)[0]["loss"] for path in (tmp_path / "run").glob("*/metrics.jsonl")}
    expected = {"classifier" if "--classifier.num-steps 1" in KINDS[kind] else "diffusion"}
    assert losses.keys() == expected | ({"autoencoder"} if kind == "latents" else set())
    assert np.all(np.isfinite(list(losses.values())))
