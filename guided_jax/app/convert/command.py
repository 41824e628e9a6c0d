"""Make a run directory of published weights, which `guided-jax sample` takes."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from guided_jax.app import cli, presets, published_model
from guided_jax.app.convert import adm, published
from guided_jax.app.translate import translate_errors
from guided_jax.pretrained import posthoc, readers
from guided_jax.pretrained.adm import MODELS, read_state_dict
from guided_jax.pretrained.published import read

PAGE = """
usage: guided-jax convert WEIGHTS --out RUN [OPTIONS]

Make a run directory of published weights, which guided-jax sample takes like any other: a folder
of diffusers with a Stable Diffusion or a DiT, or a file of one of them, a SiT, an EDM2 or an ADM.
Nothing in them is executed; every weight that is missing, surplus or misshapen is named.

  guided-jax convert stable-diffusion-v1-5/ --out runs/sd
  guided-jax convert v1-5-pruned.safetensors --config stable-diffusion-v1-5/ --out runs/sd
  guided-jax convert DiT-XL-2-256x256.pt --autoencoder sd-vae-ft-ema/ --out runs/dit
  guided-jax convert 64x64_diffusion.pt --classifier-weights 64x64_classifier.pt --out runs/adm64

  --out RUN                   the run directory that is made
  --autoencoder PATH          of a file of a latent model: the folder or file of its autoencoder
  --family dit|sit|repa       of a file whose name does not tell
  --like diffusers            of a DiT: that library's numbers where they are not the authors'
  --variant fp16              of a folder: its files of that name
  --dtype bfloat16            half the memory
  --sigma-rel 0.1             of an EDM2: an average of another length, of --snapshots FILE ...
  --config PATH               of other sizes than published: JSON with the constructors' arguments;
                              of a file of Stable Diffusion: the folder with its tokenizers
  --model NAME, --classifier-weights FILE, --classifier NAME    ADM: see --help-all
"""


PUBLISHED = ("autoencoder", "family", "like", "snapshots", "sigma_rel", "variant", "dtype")  # not of ADM


@dataclasses.dataclass(frozen=True)
class Convert:
    """Make a run directory of published weights."""

    weights: tyro.conf.Positional[Path]
    """A folder of diffusers with a Stable Diffusion or a DiT; or a file of weights: .pt, .ckpt, .safetensors or .npz, or
    .pkl of EDM2."""
    out: Path
    """The run directory that is made."""
    autoencoder: Path | None = None
    """Files: the folder or file of the autoencoder, such as sd-vae-ft-ema. Without it the run of a DiT, SiT or EDM2 draws
    latents, and a Stable Diffusion has its own."""
    family: Literal["dit", "sit", "repa"] | None = None
    """DiT and SiT files, whose weights look alike: which they are of. Default: what the file's name says."""
    like: Literal["original", "diffusers"] = "original"
    """DiT: the numbers of the authors, or those of diffusers, which are not the same."""
    snapshots: tuple[Path, ...] = ()
    """EDM2: further snapshots of the same training, whose averages of the weights are combined into --sigma-rel."""
    sigma_rel: float | None = None
    """EDM2: the length of the average that is made of the snapshots, such as 0.1."""
    variant: str | None = None
    """Folders: which of several files of weights, such as fp16."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """All but ADM: the type of the weights and of the networks' computation."""
    model: str | None = None
    """ADM: which published model they are of, such as 256x256_diffusion_uncond. Default: the name of the file."""
    classifier_weights: Path | None = None
    """ADM: the noisy classifier, in a file of the same kinds."""
    classifier: str | None = None
    """ADM: which published classifier. Default: the name of its file."""
    config: Path | None = None
    """For weights of another size, a JSON file with the constructor's arguments; of ADM: unet, and perhaps classifier,
    schedule (linear or cosine), num_steps, low_res. For a file of Stable Diffusion, the folder of diffusers that has its
    tokenizers and configurations, no weights needed; for 1 and XL as published a folder with the tokenizers alone."""


def main(args: Sequence[str]) -> None:
    """Read the weights, check every one of them, and write config.json and the checkpoints."""
    options = cli.parse(Convert, "guided-jax convert", args, description=PAGE)
    if is_adm(options):
        check_unused(options, PUBLISHED, "an ADM model")
        convert_adm(options)
    else:
        check_unused(options, ("model", "classifier_weights", "classifier"), "anything but an ADM model")
        convert_published(options)


def is_adm(options: Convert) -> bool:
    """Return whether the weights are of ADM, by its own options, the name of the file, or a tensor that only ADM has."""
    if options.model or options.classifier_weights or options.classifier or options.weights.stem in MODELS:
        return True
    if options.weights.is_dir() or options.weights.suffix == ".pkl" or not options.weights.exists():
        return False
    return "input_blocks.0.0.weight" in readers.read_state_dict(options.weights)


def check_unused(options: Convert, names: Sequence[str], what: str) -> None:
    """Raise ValueError for an option that weights of this kind ignore."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} has no effect on {what}; leave it out")


def convert_published(options: Convert) -> None:
    """Write the run of a Stable Diffusion, a DiT, a SiT or an EDM2, and print how its authors sampled it."""
    words = {
        "give its config": "give its --config",
        "give as its config": "give as its --config",
        "leave out family and like": "leave out --family and --like",
        "name its family": "name its --family",
        "like is 'diffusers'": "--like is diffusers",
    }
    with translate_errors(words):
        config = published.read_config(options.config)
        description, weights = read(
            options.weights, options.autoencoder, config, options.family, options.like, options.variant
        )
    if description.family != "edm2":
        check_unused(options, ("snapshots", "sigma_rel"), "anything but an EDM2")
    if options.sigma_rel is not None or options.snapshots:
        weights = {**weights, "network": average(options)}
    towers = () if description.text is None else description.text.towers
    folder = options.weights if options.weights.is_dir() else options.config
    tokenizers = [folder / name for name in published_model.TOKENIZERS[: len(towers)]] if folder and towers else []
    published.write(options.out, description, weights, options.dtype, tokenizers)
    preset = presets.of(description)
    if description.latents is None and published_model.facts_of(description).kind == "arrays":
        print("note: this run draws latents; convert it with --autoencoder for pictures", file=sys.stderr)
    prompt = ' --prompt "a photo of a cat"' if towers else ""
    print(f"{options.out}: sample it as its authors did: guided-jax sample {options.out} --preset{prompt}")
    print(f"which stands for {' '.join(preset.options)}\n{preset.note}")


def average(options: Convert) -> Mapping[str, np.ndarray]:
    """Return the weights averaged over another length, of the snapshots of a training of EDM2."""
    if options.sigma_rel is None:
        raise ValueError("--snapshots are combined into an average; name its length with --sigma-rel, such as 0.1")
    found = [posthoc.read_snapshot(path) for path in (options.weights, *options.snapshots)]
    return posthoc.combine(found, options.sigma_rel)


def convert_adm(options: Convert) -> None:
    """Write the run of an ADM model, and print how its authors sampled it."""
    model = adm_architecture(options)
    if options.classifier_weights and model.classifier is None:
        raise ValueError(f"{options.config} says nothing of a classifier; add its arguments under classifier")
    adm.check_free(options.out, model)
    weights = read_state_dict(options.weights)
    classifier = read_state_dict(options.classifier_weights) if options.classifier_weights else None
    adm.write(options.out, model, weights, classifier)
    print(f"{options.out}: sample it as its authors did: {adm.command(options.out, model, classifier is not None)}")


def adm_architecture(options: Convert) -> adm.Architecture:
    """Return what the options say that the weights of an ADM model are of."""
    if options.config is not None:
        if options.model or options.classifier:
            raise ValueError("--config stands in the place of --model and --classifier; give one of the two")
        return adm.read(options.config)
    own = options.classifier_weights.stem if options.classifier_weights else None
    return adm.named(options.model or options.weights.stem, options.classifier or own)
