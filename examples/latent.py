"""A latent model: a network that works on codes, with the decoder that makes pictures of them.

    python examples/latent.py out/latent

The codes are the first sixteen principal components of the digits. In their space the data is taken to be a mixture of ten
normal laws, whose exact denoiser is the network; a trained one has the same place.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from guided_jax import analytic, data, schedule
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.model import Model
from guided_jax.storage import images

CLASSES, SIZE = 10, 16


def encode(params, key, image):
    """image (8, 8, 1) in [-1, 1] -> code (16,), of about unit variance; the key is for encoders that draw."""
    return params["basis"] @ (image.reshape(-1) - params["mean"]) / params["scale"]


def decode(params, code):
    """code (16,) -> image (8, 8, 1) in [-1, 1]."""
    pixels = (code * params["scale"]) @ params["basis"] + params["mean"]
    return jnp.clip(pixels, -1, 1).reshape(8, 8, 1)


def network(params, code_t, time, label):
    """eps, the exact one of a mixture of ten normal laws; the label 10 stands for any of them."""
    alpha, sigma = time
    means, stds = params["means"], params["stds"]
    mixture = analytic.GaussianMixture(jnp.ones(CLASSES), means, stds)
    level = schedule.NoiseLevel(jnp.zeros(()), alpha, sigma)
    of_class = mixture.denoiser(jnp.minimum(label, CLASSES - 1))(code_t, level).eps
    return jnp.where(label == CLASSES, mixture.denoiser()(code_t, level).eps, of_class)


def make_run() -> runs.Run:
    """Return the model with its decoder; x_0 is a code, which no range bounds."""
    source = data.load("digits", "train")
    batch = source.read(np.arange(len(source)))
    pictures = images.from_uint8(batch["image"]).reshape(len(source), -1)
    mean = pictures.mean(0)
    _, values, basis = np.linalg.svd(pictures - mean, full_matrices=False)
    params = {"basis": basis[:SIZE], "mean": mean, "scale": values[:SIZE] / np.sqrt(len(source))}
    codes = ((pictures - mean) @ params["basis"].T) / params["scale"]
    each = [codes[batch["label"] == digit] for digit in range(CLASSES)]
    params |= {"means": np.stack([one.mean(0) for one in each]), "stds": np.array([one.std(0).mean() for one in each])}
    model = Model(
        network,
        schedule.cosine(1000),
        time=lambda level: (level.alpha, level.sigma),
        shape=(SIZE,),
        null=CLASSES,
        encode=encode,
        decode=decode,
    )
    given = {"diffusion": {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}}
    facts = Facts(source.image_shape, CLASSES, (1 / CLASSES,) * CLASSES)
    return runs.from_params(model, facts, given, bounded=False)


def main(out: Path, guidances=("none", "classifier-free", "classifier-free+interval", "projected")) -> None:
    """Draw twenty digits with each guidance."""
    run = make_run()
    for guidance in guidances:
        scale = (1.0,) if guidance == "none" else (3.0,)
        request = Method(guidance, steps="20")
        options = Sampling(out, request, scale, labels=tuple(range(10)), num_samples=20, out=out / guidance)
        print(sample.make_writer(options, run)(options) / "grid.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/latent"))
