"""Measurements of one example: linear ones, with their adjoint and inverse, nonlinear ones, and any after a decoder."""

from guided_jax.operators.fourier import convolution, fourier, motion_blur
from guided_jax.operators.linear import (
    Operator,
    average_pool,
    from_spectrum,
    gaussian_blur,
    matrix,
    pseudo_inverse,
    separable,
    through,
)
from guided_jax.operators.masks import box_mask, mask, random_mask
from guided_jax.operators.nonlinear import clipping, jpeg, nonlinear, phase_retrieval

__all__ = [
    "Operator",
    "average_pool",
    "box_mask",
    "clipping",
    "convolution",
    "fourier",
    "from_spectrum",
    "gaussian_blur",
    "jpeg",
    "mask",
    "matrix",
    "motion_blur",
    "nonlinear",
    "phase_retrieval",
    "pseudo_inverse",
    "random_mask",
    "separable",
    "through",
]
