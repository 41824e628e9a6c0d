"""Samplers, each a `ReverseStep`: how x_t becomes x_s, given a denoiser. A newcomer is one function here."""

from guided_jax.guidance.stateful import Stateful
from guided_jax.reverse.ancestral import classifier_ddpm, ddpm
from guided_jax.reverse.implicit import ddim
from guided_jax.reverse.measurement import dps, repaint
from guided_jax.reverse.off_the_shelf import off_the_shelf_ddpm
from guided_jax.reverse.stateful import with_state
from guided_jax.reverse.step import ReverseStep

__all__ = [
    "ReverseStep",
    "Stateful",
    "classifier_ddpm",
    "ddim",
    "ddpm",
    "dps",
    "off_the_shelf_ddpm",
    "repaint",
    "with_state",
]
