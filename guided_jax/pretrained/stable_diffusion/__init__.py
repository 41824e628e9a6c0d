"""The networks of Stable Diffusion with published weights: `unet` and its configurations, `names`, the layouts of files."""

from guided_jax.pretrained.stable_diffusion.unet import load_unet, make_unet, shapes

__all__ = ["load_unet", "make_unet", "shapes"]
