"""Make a run directory of OpenAI's guided-diffusion weights, to be sampled with sample.py.

guided-jax convert 64x64_diffusion.pt --classifier-weights 64x64_classifier.pt --out runs/imagenet64
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from guided_jax.app import cli, published
from guided_jax.pretrained import adm


@dataclasses.dataclass(frozen=True)
class Converting:
    """Make a run directory of OpenAI's guided-diffusion weights."""

    weights: tyro.conf.Positional[Path]
    """Of the diffusion model: a .pt, .safetensors or .npz file of its state_dict."""
    out: Path
    """The run directory that is made."""
    model: str | None = None
    """Which published model they are of, such as 256x256_diffusion_uncond; the file's own name, if not given."""
    classifier_weights: Path | None = None
    classifier: str | None = None
    """Which published classifier; the file's own name, if not given."""
    config: Path | None = None
    """For other weights, a JSON file with the constructors' arguments: unet, and perhaps classifier, schedule
    (linear or cosine), num_steps, low_res."""


def model_of(options: Converting) -> published.Model:
    """What the options say that the weights are."""
    if options.config is not None:
        if options.model or options.classifier:
            raise ValueError("--config stands in the place of --model and --classifier; give one of the two")
        return published.read(options.config)
    own = options.classifier_weights.stem if options.classifier_weights else None
    return published.named(options.model or options.weights.stem, options.classifier or own)


def main(args: Sequence[str]) -> None:
    """Reads the weights, checks every one of them, and writes config.json and the checkpoints."""
    options = cli.parse(Converting, "guided-jax convert", args, description=__doc__)
    model = model_of(options)
    if options.classifier_weights and model.classifier is None:
        raise ValueError(f"{options.config} says nothing of a classifier; add its arguments under classifier")
    weights = adm.read_state_dict(options.weights)
    classifier = adm.read_state_dict(options.classifier_weights) if options.classifier_weights else None
    published.write(options.out, model, weights, classifier)
    print(
        f"{options.out}: sample it as its authors did: {published.command(options.out, model, classifier is not None)}"
    )
