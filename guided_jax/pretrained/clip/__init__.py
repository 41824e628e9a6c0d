"""CLIP with published weights: its towers."""

from guided_jax.pretrained.clip.towers import load, load_text, load_vision, make_clip, make_text, make_vision, shapes

__all__ = ["load", "load_text", "load_vision", "make_clip", "make_text", "make_vision", "shapes"]
