"""Losses of diffusion networks, their distillation, noisy classifiers, noised CLIPs and autoencoders; laws of levels."""

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
from guided_jax.losses.distillation import Teacher, draw_scales, teach

__all__ = [
    "TARGETS",
    "Hybrid",
    "Noisy",
    "Teacher",
    "autoencoding",
    "bound_bits",
    "classification",
    "contrastive",
    "corrupt",
    "denoising",
    "diffusion",
    "draw_scales",
    "drop",
    "first_estimate",
    "hybrid",
    "importance",
    "teach",
    "times",
    "weighting",
]
