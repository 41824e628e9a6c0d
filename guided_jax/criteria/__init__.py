"""Criteria: functions (x, level) -> scalar of one example, larger is better, whose gradient guides.

Those of noisy examples are for `guidance.classifier`, those of clean ones for `guidance.universal` and
`guidance.off_the_shelf`; of latents `lambda z_0, level: criterion(decode(z_0), level)`. `all_of` adds them with weights.
"""

from guided_jax.criteria.clip import among, similarity, spherical
from guided_jax.criteria.cutouts import Box, crop, draw_box, over_cutouts
from guided_jax.criteria.log_prob import all_of, any_of, from_logits

__all__ = [
    "Box",
    "all_of",
    "among",
    "any_of",
    "crop",
    "draw_box",
    "from_logits",
    "over_cutouts",
    "similarity",
    "spherical",
]
