"""The networks, in Flax: U-Nets of ADM, EDM2 and Stable Diffusion, DiT, the autoencoder, CLIP, BERT, T5, the classifier."""

from guided_jax.models import latent, tiles
from guided_jax.models.autoencoder import AutoencoderKL
from guided_jax.models.bert import Bert
from guided_jax.models.classifier import Classifier
from guided_jax.models.clip import CLIP, CLIPText, CLIPVision
from guided_jax.models.edm2 import EDM2
from guided_jax.models.noised_clip import NoisedCLIP
from guided_jax.models.perturbation import (
    attention_blocks,
    attention_mass,
    block_name,
    blurred_queries,
    identity_attention,
    middle_block,
)
from guided_jax.models.prepare import prepare_params
from guided_jax.models.sizes import check_image_size
from guided_jax.models.stable_diffusion import ControlNet, MMDiT, UNet2DConditionModel
from guided_jax.models.t5 import T5Encoder
from guided_jax.models.transformer import DiT
from guided_jax.models.unet import UNet

__all__ = [
    "CLIP",
    "EDM2",
    "AutoencoderKL",
    "Bert",
    "CLIPText",
    "CLIPVision",
    "Classifier",
    "ControlNet",
    "DiT",
    "MMDiT",
    "NoisedCLIP",
    "T5Encoder",
    "UNet",
    "UNet2DConditionModel",
    "attention_blocks",
    "attention_mass",
    "block_name",
    "blurred_queries",
    "check_image_size",
    "identity_attention",
    "latent",
    "middle_block",
    "prepare_params",
    "tiles",
]
