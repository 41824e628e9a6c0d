"""CLIP with published weights: its towers, its tokens, and weights of parts of a prompt."""

from guided_jax.models.clip.towers import TextFeatures, VisionFeatures
from guided_jax.pretrained.clip.folder import Checkpoint, embed_image, embed_text, load_folder
from guided_jax.pretrained.clip.prompts import parse_weights, weigh
from guided_jax.pretrained.clip.tokenization import Tokenizer, WeightedIds, tokenizer
from guided_jax.pretrained.clip.towers import (
    load,
    load_text,
    load_vision,
    make_clip,
    make_text,
    make_vision,
    same_weights,
    shapes,
)

__all__ = [
    "Checkpoint",
    "TextFeatures",
    "Tokenizer",
    "VisionFeatures",
    "WeightedIds",
    "embed_image",
    "embed_text",
    "load",
    "load_folder",
    "load_text",
    "load_vision",
    "make_clip",
    "make_text",
    "make_vision",
    "parse_weights",
    "same_weights",
    "shapes",
    "tokenizer",
    "weigh",
]
