"""Features by DINOv2, and how pictures of any size are brought to its 224 x 224.

Sources: [FD-DINOv2] Stein et al. 2306.04675, who measure the Frechet distance in these features; the evaluation of [EDM2]
Karras et al. 2312.02696, whose preprocessing this is; [DINOv2] Oquab et al. 2304.07193.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from guided_jax.metrics.features import FeatureFunction, Features
from guided_jax.metrics.files import DINO
from guided_jax.metrics.inception import rgb
from guided_jax.models.ops import bicubic
from guided_jax.models.ops.norm import along_last
from guided_jax.models.vision_transformer import VisionTransformer

LETTERS = {384: "S", 768: "B", 1024: "L"}  # channels -> the letter of the network's size
SIDE = 224  # pixels that pictures are brought to
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, 0 to 1


def features_name(module: VisionTransformer) -> str:
    """Return the name of its features in files: statistics of different networks cannot be compared.

    >>> features_name(VisionTransformer())
    'dinov2 ViT-L/14'
    """
    size = LETTERS.get(module.hidden_size, module.hidden_size)
    registers = f" with {module.num_registers} registers" if module.num_registers else ""
    return f"{DINO} ViT-{size}/{module.patch_size}{registers}"


def dino_features(module: VisionTransformer, params: Mapping[str, Any]) -> FeatureFunction:
    """Return the function picture -> `Features`: the class token after the final norm, 1024 numbers of a ViT-L.

    Pictures are resized to 224 x 224, bicubically with antialiasing, then (x / 255 - mean) / std. Grey pictures are
    repeated three times; ValueError for other channels.
    """

    def features(picture: UInt8[Array | np.ndarray, "h w c"]) -> Features:
        x = bicubic.resize(rgb(picture).astype(jnp.float32), (SIDE, SIDE), antialias=True)
        x = (x / 255 - along_last(jnp.asarray(MEAN), 3)) / along_last(jnp.asarray(STD), 3)
        found: Any = module.apply(params, x)
        return Features(found.pooled)

    return features
