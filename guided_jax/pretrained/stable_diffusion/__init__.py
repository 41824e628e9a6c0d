"""The networks of Stable Diffusion with published weights: `unet`, of versions 1, 2 and XL, `control`, the ControlNets that
steer it, and `transformer`, of version 3; `lora`, the names of low-rank updates of their weights.
"""

from guided_jax.pretrained.stable_diffusion.control import control_shapes, load_control, make_control
from guided_jax.pretrained.stable_diffusion.transformer import load_transformer, make_transformer
from guided_jax.pretrained.stable_diffusion.unet import load_unet, make_unet, shapes

__all__ = [
    "control_shapes",
    "load_control",
    "load_transformer",
    "load_unet",
    "make_control",
    "make_transformer",
    "make_unet",
    "shapes",
]
