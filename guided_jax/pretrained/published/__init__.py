"""Published diffusion models as `Model`s: what a checkpoint says of itself, and the model that it describes.

`loading` reads files, `description` is what it finds as plain data, `families` builds the model of a description. Of its
scheduler, `levels` makes the table, `schedulers` the levels that a run visits, and `steps` the sampler.
"""

from guided_jax.pretrained.published.control import check_control, make_controlled
from guided_jax.pretrained.published.description import Description, Latents, of_json
from guided_jax.pretrained.published.families import (
    check_description,
    count_classes,
    image_shape,
    make_attention,
    make_model,
    make_parts,
    param_shapes,
    prepare,
)
from guided_jax.pretrained.published.loading import import_weights, infer_config, load, read
from guided_jax.pretrained.published.lora import merge_lora
from guided_jax.pretrained.published.stable_diffusion_folder import import_towers
from guided_jax.pretrained.published.text_to_image import Prompt, States, make_condition

__all__ = [
    "Description",
    "Latents",
    "Prompt",
    "States",
    "check_control",
    "check_description",
    "count_classes",
    "image_shape",
    "import_towers",
    "import_weights",
    "infer_config",
    "load",
    "make_attention",
    "make_condition",
    "make_controlled",
    "make_model",
    "make_parts",
    "merge_lora",
    "of_json",
    "param_shapes",
    "prepare",
    "read",
]
