"""The networks of Stable Diffusion: `network`, the U-Net of its versions 1, 2 and XL, with its `encoder` and `blocks`;
`control`, the ControlNets that steer it; `mmdit`, of version 3.
"""

from guided_jax.models.stable_diffusion.control import ControlNet
from guided_jax.models.stable_diffusion.mmdit import MMDiT
from guided_jax.models.stable_diffusion.network import UNet2DConditionModel

__all__ = ["ControlNet", "MMDiT", "UNet2DConditionModel"]
