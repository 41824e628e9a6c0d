"""The networks of Stable Diffusion: `network`, the U-Net of its versions 1, 2 and XL, with its `blocks`; `mmdit`, of 3."""

from guided_jax.models.stable_diffusion.mmdit import MMDiT
from guided_jax.models.stable_diffusion.network import UNet2DConditionModel

__all__ = ["MMDiT", "UNet2DConditionModel"]
