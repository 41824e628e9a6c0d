"""What networks are trained on: the losses of a noisy batch, how their levels are drawn, and how much each level counts."""

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
