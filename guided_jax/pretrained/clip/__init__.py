"""CLIP with published weights: its towers, its tokens, and weights of parts of a prompt."""

from guided_jax.pretrained.clip.prompts import parse_weights, weigh
from guided_jax.pretrained.clip.tokenization import Tokenizer, WeightedIds, tokenizer
from guided_jax.pretrained.clip.towers import load, load_text, load_vision, make_clip, make_text, make_vision, shapes

__all__ = [
    "Tokenizer",
    "WeightedIds",
    "load",
    "load_text",
    "load_vision",
    "make_clip",
    "make_text",
    "make_vision",
    "parse_weights",
    "shapes",
    "tokenizer",
    "weigh",
]
