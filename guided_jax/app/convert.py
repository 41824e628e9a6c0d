"""Make a run directory of OpenAI's guided-diffusion weights, which `guided-jax sample` takes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from guided_jax.app import cli, published
from guided_jax.pretrained import adm

PAGE = """
usage: guided-jax convert WEIGHTS --out RUN [OPTIONS]

Make a run directory of published weights, which guided-jax sample takes like any other. Nothing
in the files is executed; every weight that is missing, surplus or misshapen is named.

  guided-jax convert 64x64_diffusion.pt --classifier-weights 64x64_classifier.pt --out runs/adm64
  guided-jax convert mine.npz --config mine.json --out runs/mine

  --out RUN                   the run directory that is made
  --model NAME                which published model; default: the name of the file
  --classifier-weights FILE   of the noisy classifier, for classifier guidance
  --classifier NAME           which published classifier; default: the name of its file
  --config FILE               for other weights: JSON with the constructors' arguments
"""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Make a run directory of OpenAI's guided-diffusion weights."""

    weights: tyro.conf.Positional[Path]
    """The diffusion model: a .pt, .safetensors or .npz file of its state_dict."""
    out: Path
    """The run directory that is made."""
    model: str | None = None
    """Which published model they are of, such as 256x256_diffusion_uncond. Default: the name of the file."""
    classifier_weights: Path | None = None
    """The noisy classifier, in a file of the same kinds."""
    classifier: str | None = None
    """Which published classifier. Default: the name of its file."""
    config: Path | None = None
    """For other weights, a JSON file with the constructors' arguments: unet, and perhaps classifier, schedule
    (linear or cosine), num_steps, low_res."""


def architecture_of(options: Convert) -> published.Architecture:
    """Return what the options say that the weights are of."""
    if options.config is not None:
        if options.model or options.classifier:
            raise ValueError("--config stands in the place of --model and --classifier; give one of the two")
        return published.read(options.config)
    own = options.classifier_weights.stem if options.classifier_weights else None
    return published.named(options.model or options.weights.stem, options.classifier or own)


def main(args: Sequence[str]) -> None:
    """Read the weights, check every one of them, and write config.json and the checkpoints."""
    options = cli.parse(Convert, "guided-jax convert", args, description=PAGE)
    model = architecture_of(options)
    if options.classifier_weights and model.classifier is None:
        raise ValueError(f"{options.config} says nothing of a classifier; add its arguments under classifier")
    published.check_free(options.out, model)
    weights = adm.read_state_dict(options.weights)
    classifier = adm.read_state_dict(options.classifier_weights) if options.classifier_weights else None
    published.write(options.out, model, weights, classifier)
    print(
        f"{options.out}: sample it as its authors did: {published.command(options.out, model, classifier is not None)}"
    )
