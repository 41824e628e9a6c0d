"""OpenAI's guided-diffusion (ADM): its checkpoints in our networks, and what was published with them."""

from guided_jax.pretrained.adm.published import CLASSIFIERS, MODELS, Published
from guided_jax.pretrained.adm.weights import (
    classifier,
    classifier_shapes,
    import_params,
    load_classifier,
    load_unet,
    torch_key,
    unet,
    unet_shapes,
)
from guided_jax.pretrained.readers import read_state_dict
from guided_jax.pretrained.state_dict import from_torch

__all__ = [
    "CLASSIFIERS",
    "MODELS",
    "Published",
    "classifier",
    "classifier_shapes",
    "from_torch",
    "import_params",
    "load_classifier",
    "load_unet",
    "read_state_dict",
    "torch_key",
    "unet",
    "unet_shapes",
]
