"""A network of your own, drawn from, swept and diagnosed by the functions behind the commands.

    python examples/own_network.py out/own_network

The network is a plain function of arrays, of any library's: here the exact denoiser of ten blurred digits, so that nothing
has to be trained. Its condition is a pytree of its own kind: how much of each digit is wanted.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, schedule
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sampling, Sweep
from guided_jax.app.sweep import command as sweep
from guided_jax.model import Model
from guided_jax.storage import images

CLASSES = 10


def network(params, x_t, time, condition):
    """x_0 = E[x_0 | x_t] for data that is the mean of a digit plus noise of standard deviation `std`.

    time: (alpha, sigma), because `Model.time` below says so. condition: {"weights": (10,)}, the share of each digit.
    """
    alpha, sigma = time
    share = jax.nn.softmax(jnp.log(condition["weights"]) + logits(params, x_t, alpha, sigma))
    mean = jnp.tensordot(share, params["means"], 1)
    variance = (alpha * params["std"]) ** 2 + sigma**2
    return mean + alpha * params["std"] ** 2 / variance * (x_t - alpha * mean)


def logits(params, x_t, alpha, sigma):
    """log p(x_t | digit) up to a constant: an exact classifier of noisy pictures, which classifier guidance may use."""
    distance = jnp.sum((x_t[None] - alpha * params["means"]) ** 2, axis=(1, 2, 3))
    return -distance / (2 * ((alpha * params["std"]) ** 2 + sigma**2))


def make_run() -> runs.Run:
    """Return the model with all that the commands need of it."""
    source = data.load("digits", "train")
    batch = source.read(np.arange(len(source)))
    pictures = images.from_uint8(batch["image"])
    means = jnp.stack([pictures[batch["label"] == digit].mean(0) for digit in range(CLASSES)])
    model = Model(
        network,
        schedule.cosine(1000),
        parameterization="x_0",
        time=lambda level: (level.alpha, level.sigma),
        shape=source.image_shape,
        null={"weights": jnp.full(CLASSES, 1 / CLASSES)},
    )
    params = {"means": means, "std": jnp.float32(0.3)}
    return runs.from_params(
        model,
        Facts(source.image_shape, CLASSES, (1 / CLASSES,) * CLASSES),
        {"diffusion": params, "classifier": params},
        raw=lambda label: {"weights": jax.nn.one_hot(label, CLASSES)},
        classifier=lambda params, x_t, level: logits(params, x_t, level.alpha, level.sigma),
        source=lambda held_out: data.load("digits", "test" if held_out else "train"),
    )


def draw(run: runs.Run, out: Path, guidance: str, **method) -> Path:
    """Draw sixteen digits with a guidance of the command line; return the folder with samples.npz and grid.png."""
    request = Method(guidance, **{"steps": "10", **method})
    options = Sampling(
        out, request, labels=(3, 7), num_samples=16, out=out / guidance, diagnose=guidance == "classifier"
    )
    return sample.make_writer(options, run)(options)


def main(out: Path, guidances=("none", "classifier-free", "classifier"), scales="0,1,3", count=100) -> None:
    """Draw with each guidance, and sweep over the scales of classifier-free guidance."""
    run = make_run()
    for guidance in guidances:
        print(draw(run, out, guidance) / "grid.png")
    options = Sampling(out, Method("classifier-free", steps="10"), num_samples=count, out=out / "sweep")
    settings = Sweep(sweep=f"scale={scales}", sweep_seeds=2)
    sweep.sweep_run(dataclasses.replace(options, sweep=settings), run)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/own_network"))
