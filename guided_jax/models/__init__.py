"""The networks, in Flax Linen: the ADM U-Net and the encoder classifier that guides it."""

from guided_jax.models.classifier import Classifier
from guided_jax.models.encoder import check_image_size
from guided_jax.models.unet import UNet

__all__ = ["Classifier", "UNet", "check_image_size"]
