"""Guidance: denoisers in, a denoiser out; composed by calling.

Linear guidance moves both views of a prediction, each by its own formula, never one through the other: at the noisy end of
the cosine schedule alpha is 5e-5, and going through eps would blow its rounding error up to 5e-3 in x_0.
"""

from guided_jax.guidance.classifier import classifier
from guided_jax.guidance.classifier_free import classifier_free
from guided_jax.guidance.strength import LogProb, Scale
from guided_jax.guidance.threshold import clip

__all__ = ["LogProb", "Scale", "classifier", "classifier_free", "clip"]
