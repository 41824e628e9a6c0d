"""Samplers, each a `ReverseStep`: how x_t becomes x_s, given a denoiser. A newcomer is one function here."""

from guided_jax.reverse.ancestral import classifier_ddpm, ddpm
from guided_jax.reverse.implicit import ddim
from guided_jax.reverse.step import ReverseStep

__all__ = ["ReverseStep", "classifier_ddpm", "ddim", "ddpm"]
