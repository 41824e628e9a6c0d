"""The settings of an experiment: frozen dataclasses whose `make` methods return objects of the library."""

from guided_jax.app.settings.data import NO_DATA, Data
from guided_jax.app.settings.experiment import (
    MAY_CHANGE,
    PARTS,
    TRAINED,
    Autoencoder,
    Classifier,
    Diffusion,
    Experiment,
    Optimizer,
    Training,
)
from guided_jax.app.settings.networks import AutoencoderKL, DiT, Encoder, Network, UNet
from guided_jax.app.settings.noise import Schedule, Times, Weighting
from guided_jax.app.settings.serial import from_dict, to_dict

__all__ = [
    "MAY_CHANGE",
    "NO_DATA",
    "PARTS",
    "TRAINED",
    "Autoencoder",
    "AutoencoderKL",
    "Classifier",
    "Data",
    "DiT",
    "Diffusion",
    "Encoder",
    "Experiment",
    "Network",
    "Optimizer",
    "Schedule",
    "Times",
    "Training",
    "UNet",
    "Weighting",
    "from_dict",
    "to_dict",
]
