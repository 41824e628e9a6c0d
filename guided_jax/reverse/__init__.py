"""Samplers, each a `ReverseStep`: how x_t becomes x_s, given a denoiser. A new sampler is one function here."""

from guided_jax.reverse.ancestral import classifier_ddpm, ddpm
from guided_jax.reverse.decoupled import daps, split_gibbs
from guided_jax.reverse.deis import deis
from guided_jax.reverse.dpm import dpm_solver, dpm_solver_2s
from guided_jax.reverse.heun import churned, heun
from guided_jax.reverse.implicit import ddim, euler, euler_ancestral
from guided_jax.reverse.langevin import annealed_langevin, chain, langevin
from guided_jax.reverse.measurement import blend, dps, repaint
from guided_jax.reverse.off_the_shelf import off_the_shelf_ddpm
from guided_jax.reverse.optimal import estimated_spread, normal_spread, optimal_variance
from guided_jax.reverse.plms import plms
from guided_jax.reverse.restoration import ddnm, diffpir
from guided_jax.reverse.sde import reverse_sde
from guided_jax.reverse.stateful import with_state
from guided_jax.reverse.step import ReverseStep
from guided_jax.reverse.training_free import training_free
from guided_jax.reverse.unipc import unipc

__all__ = [
    "ReverseStep",
    "annealed_langevin",
    "blend",
    "chain",
    "churned",
    "classifier_ddpm",
    "daps",
    "ddim",
    "ddnm",
    "ddpm",
    "deis",
    "diffpir",
    "dpm_solver",
    "dpm_solver_2s",
    "dps",
    "estimated_spread",
    "euler",
    "euler_ancestral",
    "heun",
    "langevin",
    "normal_spread",
    "off_the_shelf_ddpm",
    "optimal_variance",
    "plms",
    "repaint",
    "reverse_sde",
    "split_gibbs",
    "training_free",
    "unipc",
    "with_state",
]
