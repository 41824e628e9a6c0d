"""The networks of Stable Diffusion: `network`, the U-Net of its versions 1, 2 and XL; `blocks`, where it reads the text."""

from guided_jax.models.stable_diffusion.network import UNet2DConditionModel

__all__ = ["UNet2DConditionModel"]
