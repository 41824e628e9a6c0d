"""Criteria: functions (x, level) -> scalar of one example, larger is better, whose gradient guides.

Those of noisy examples are for `guidance.classifier`, those of clean ones for `guidance.universal`,
`guidance.off_the_shelf` and `reverse.training_free`; of latents `lambda z_0, level: criterion(decode(z_0), level)`.
`all_of` adds them with weights. Any function of yours of this form is a criterion too.
"""

from guided_jax.criteria.clip import among, similarity, spherical
from guided_jax.criteria.cutouts import Box, crop, draw_box, over_cutouts
from guided_jax.criteria.log_prob import all_of, any_of, from_logits
from guided_jax.criteria.penalties import in_range, smooth
from guided_jax.criteria.pictures import channel_statistics, colour, near, patches, style

__all__ = [
    "Box",
    "all_of",
    "among",
    "any_of",
    "channel_statistics",
    "colour",
    "crop",
    "draw_box",
    "from_logits",
    "in_range",
    "near",
    "over_cutouts",
    "patches",
    "similarity",
    "smooth",
    "spherical",
    "style",
]
