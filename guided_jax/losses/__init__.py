"""Losses of diffusion networks, noisy classifiers, noised CLIPs and autoencoders; laws and weightings of levels."""

from guided_jax.losses import autoencoding, contrastive, importance, times, weighting
from guided_jax.losses.denoising import (
    TARGETS,
    Hybrid,
    Noisy,
    bound_bits,
    classification,
    corrupt,
    denoising,
    diffusion,
    drop,
    first_estimate,
    hybrid,
)

__all__ = [
    "TARGETS",
    "Hybrid",
    "Noisy",
    "autoencoding",
    "bound_bits",
    "classification",
    "contrastive",
    "corrupt",
    "denoising",
    "diffusion",
    "drop",
    "first_estimate",
    "hybrid",
    "importance",
    "times",
    "weighting",
]
