"""The networks, in Flax: U-Nets of ADM, EDM2 and Stable Diffusion, DiT, the autoencoder, CLIP, the classifier."""

from guided_jax.models.autoencoder import AutoencoderKL
from guided_jax.models.classifier import Classifier
from guided_jax.models.clip import CLIP, CLIPText, CLIPVision
from guided_jax.models.edm2 import EDM2
from guided_jax.models.encoder import check_image_size
from guided_jax.models.perturbation import attention_blocks, attention_mass, blurred_queries, identity_attention
from guided_jax.models.prepare import prepare_params
from guided_jax.models.stable_diffusion import MMDiT, UNet2DConditionModel
from guided_jax.models.transformer import DiT
from guided_jax.models.unet import UNet

__all__ = [
    "CLIP",
    "EDM2",
    "AutoencoderKL",
    "CLIPText",
    "CLIPVision",
    "Classifier",
    "DiT",
    "MMDiT",
    "UNet",
    "UNet2DConditionModel",
    "attention_blocks",
    "attention_mass",
    "blurred_queries",
    "check_image_size",
    "identity_attention",
    "prepare_params",
]
