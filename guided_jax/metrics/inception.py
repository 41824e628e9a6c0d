"""Features by Inception-v3, and how pictures of any size are brought to its 299 x 299.

Sources: [FID] Heusel et al. 1706.08500 and its TensorFlow network of 2015-12-05; [ADM]'s evaluator, which feeds that
network and takes the features of sFID from it ([sFID] Nash et al. 2103.03841); pytorch-fid, which has its weights in torch.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from guided_jax.metrics.features import FeatureFunction, Features
from guided_jax.metrics.files import INCEPTION
from guided_jax.models.inception import SIDE, InceptionV3


def features_name(module: InceptionV3) -> str:
    """Return the name of its features in files; statistics of the two networks cannot be compared."""
    return INCEPTION if module.fid else f"{INCEPTION} of torchvision"


def inception_features(
    module: InceptionV3, params: Mapping[str, Any], preprocessing: Literal["tensorflow", "pytorch-fid"] = "tensorflow"
) -> FeatureFunction:
    """Return the function picture -> `Features`: 2048 numbers, 17 x 17 x 7, and logits without bias, as [ADM] takes them.

    preprocessing: "tensorflow", where 0..255 is resized from the corner of the first pixel, then (x - 128) / 128, as the
    network of 2015 does it itself ([ADM], the original FID); or "pytorch-fid", resized about half-pixel centres, then
    x / 127.5 - 1. Grey pictures are repeated three times; ValueError for other channels.
    """
    bias = params["params"]["fc"]["bias"]

    def features(picture: UInt8[Array | np.ndarray, "h w c"]) -> Features:
        x = resize(rgb(picture).astype(jnp.float32), half_pixel=preprocessing == "pytorch-fid")
        x = (x - 128) / 128 if preprocessing == "tensorflow" else x / 127.5 - 1
        found: Any = module.apply(params, x)
        return Features(found.pool, found.spatial.reshape(-1), found.logits - bias)

    return features


def rgb(picture: UInt8[Array | np.ndarray, "h w c"]) -> UInt8[Array, "h w 3"]:
    """Return a picture of one or three channels with three; ValueError for others."""
    if picture.shape[-1] not in (1, 3):
        raise ValueError(f"the features take pictures of 1 or 3 channels, these have {picture.shape[-1]}")
    return jnp.broadcast_to(picture, (*picture.shape[:2], 3))


def resize(
    x: Float[Array | np.ndarray, "h w c"], half_pixel: bool, side: int = SIDE
) -> Float[Array, "{side} {side} c"]:
    """Resize to `side` x `side`, bilinear and without antialiasing; half_pixel: see `interpolation`."""
    rows, columns = (interpolation(size, side, half_pixel) for size in x.shape[:2])
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, x, precision=precise)


def interpolation(size: int, side: int, half_pixel: bool) -> Float[np.ndarray, "{side} {size}"]:
    """Return the weights of `size` pixels in each of `side` interpolated ones.

    Pixel i is at i size / side, or, where centres are at half pixels, at (i + 1/2) size / side - 1/2; beyond the ends the
    last pixel counts.
    """
    place = (np.arange(side) + 0.5 * half_pixel) * (size / side) - 0.5 * half_pixel
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(int)
    weights = np.zeros((side, size), np.float32)
    weights[np.arange(side), low] = 1 - (place - low)
    weights[np.arange(side), np.minimum(low + 1, size - 1)] += place - low
    return weights
