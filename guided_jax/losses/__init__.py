"""Losses of diffusion networks and noisy classifiers: of a noisy batch, with the laws and the weightings of its levels."""

from guided_jax.losses import importance, times, weighting
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
