"""Losses of diffusion networks and noisy classifiers, with the laws and the weightings of levels; and of autoencoders."""

from guided_jax.losses import autoencoding, importance, times, weighting
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
