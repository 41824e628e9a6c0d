"""Noise schedules: tables of levels, ascending, level 0 clean.

A schedule is data: a table, computed in float64 on the host and kept as float32 arrays of shape (T + 1,). A sampler
visits some of its levels (`respace`), or levels between two of them (`interpolate`).
"""

from guided_jax.schedule.interpolation import interpolate
from guided_jax.schedule.level import (
    NoiseLevel,
    at,
    fold_in,
    is_clean,
    is_pure_noise,
    levels_like,
    log_snr_of,
    noise_ratio,
)
from guided_jax.schedule.spacing import respace, spaced
from guided_jax.schedule.tables import cosine, flow, from_betas, karras, linear, sigmoid, zero_terminal_snr

__all__ = [
    "NoiseLevel",
    "at",
    "cosine",
    "flow",
    "fold_in",
    "from_betas",
    "interpolate",
    "is_clean",
    "is_pure_noise",
    "karras",
    "levels_like",
    "linear",
    "log_snr_of",
    "noise_ratio",
    "respace",
    "sigmoid",
    "spaced",
    "zero_terminal_snr",
]
