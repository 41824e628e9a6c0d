"""Guidance: denoisers in, a denoiser out; composed by calling.

Linear guidance changes both views of a prediction, x_0 and eps, each by its own formula: at the noisy end of the cosine
schedule alpha is 5e-5, and x_0 computed from eps would have a rounding error of 5e-3. The docstring of a guidance that
is not linear (`rescale`, `projected`, `tangential`, `zero_star`, the thresholds) names the view that it is defined on.
"""

from guided_jax.criteria.log_prob import all_of, any_of, from_logits
from guided_jax.guidance import observe
from guided_jax.guidance.adaptive import AdaptiveState, adaptive
from guided_jax.guidance.annealed import annealed
from guided_jax.guidance.call_once import batched, call_once
from guided_jax.guidance.cfg_plus_plus import cfg_plus_plus
from guided_jax.guidance.channels import channels
from guided_jax.guidance.classifier import classifier
from guided_jax.guidance.classifier_free import autoguidance, classifier_free
from guided_jax.guidance.composition import compose, push
from guided_jax.guidance.distilled import distilled
from guided_jax.guidance.frequency_decoupled import frequency_decoupled
from guided_jax.guidance.independent import independent
from guided_jax.guidance.internal import Pair, internal, of_pair, two_heads
from guided_jax.guidance.interval import interval
from guided_jax.guidance.magnitude_aware import magnitude_aware
from guided_jax.guidance.measurement import likelihood, paste, pigdm
from guided_jax.guidance.mmps import mmps
from guided_jax.guidance.off_the_shelf import off_the_shelf, universal
from guided_jax.guidance.projected import projected
from guided_jax.guidance.ramp import cosine_ramp, limited, linear_ramp
from guided_jax.guidance.rescale import rescale
from guided_jax.guidance.reused import ReusedState, reused
from guided_jax.guidance.self_attention import blurred, self_attention
from guided_jax.guidance.self_conditioning import self_conditioned
from guided_jax.guidance.skip import saved_calls
from guided_jax.guidance.tangential import tangential
from guided_jax.guidance.threshold import clip, dynamic_threshold
from guided_jax.guidance.zero_star import zero_star
from guided_jax.stateful import Stateful, first_state, lift, stateless
from guided_jax.strength import LogProb, Scale, strength

__all__ = [
    "AdaptiveState",
    "LogProb",
    "Pair",
    "ReusedState",
    "Scale",
    "Stateful",
    "adaptive",
    "all_of",
    "annealed",
    "any_of",
    "autoguidance",
    "batched",
    "blurred",
    "call_once",
    "cfg_plus_plus",
    "channels",
    "classifier",
    "classifier_free",
    "clip",
    "compose",
    "cosine_ramp",
    "distilled",
    "dynamic_threshold",
    "first_state",
    "frequency_decoupled",
    "from_logits",
    "independent",
    "internal",
    "interval",
    "lift",
    "likelihood",
    "limited",
    "linear_ramp",
    "magnitude_aware",
    "mmps",
    "observe",
    "of_pair",
    "off_the_shelf",
    "paste",
    "pigdm",
    "projected",
    "push",
    "rescale",
    "reused",
    "saved_calls",
    "self_attention",
    "self_conditioned",
    "stateless",
    "strength",
    "tangential",
    "two_heads",
    "universal",
    "zero_star",
]
