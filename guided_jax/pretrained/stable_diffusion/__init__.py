"""The networks of Stable Diffusion with published weights: `unet`, of versions 1, 2 and XL, and `transformer`, of 3."""

from guided_jax.pretrained.stable_diffusion.transformer import load_transformer, make_transformer
from guided_jax.pretrained.stable_diffusion.unet import load_unet, make_unet, shapes

__all__ = ["load_transformer", "load_unet", "make_transformer", "make_unet", "shapes"]
