"""CLIP in Flax: its text tower, its vision tower, both together, and the pictures that it takes."""

from guided_jax.models.clip.pixels import preprocess, preprocess_uint8
from guided_jax.models.clip.towers import CLIP, CLIPText, CLIPVision, TextFeatures, VisionFeatures, similarity

__all__ = [
    "CLIP",
    "CLIPText",
    "CLIPVision",
    "TextFeatures",
    "VisionFeatures",
    "preprocess",
    "preprocess_uint8",
    "similarity",
]
