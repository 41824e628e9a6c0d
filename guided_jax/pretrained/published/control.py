"""A ControlNet beside the network of a Stable Diffusion: what it makes of a picture is added inside the U-Net.

    params = {"network": ..., "control": the variables of the ControlNet, ...}
    condition = {"context": ..., "control_image": (H, W, 3) in [0, 1], "control_scale": 1.0}

Source: [CN] Zhang et al. 2302.05543.
"""

from collections.abc import Callable
from typing import Any

from guided_jax.models import ControlNet
from guided_jax.pretrained.published.description import Description
from guided_jax.pretrained.published.families import image_shape, make_parts

# What a ControlNet has in common with its U-Net.
SHARED = ("block_out_channels", "attention_levels", "layers_per_block", "cross_attention_dim", "added_features")


def make_controlled(network: Callable[..., Any], control: ControlNet) -> Callable[..., Any]:
    """Return the `Model.network` of a Stable Diffusion to which a ControlNet adds, where the condition has a control_image.

    network: without it.
    """

    def controlled(params: Any, x: Any, time: Any, condition: dict[str, Any], *rest: Any) -> Any:
        if "control_image" not in condition:
            return network(params, x, time, condition, *rest)
        known = {name: condition[name] for name in ("pooled", "time_ids") if name in condition}
        image, scale = condition["control_image"], condition.get("control_scale", 1.0)
        residuals = control.apply(params["control"], x, time, condition["context"], image, **known, scale=scale)
        return network(params, x, time, {**condition, "control": residuals}, *rest)

    return controlled


def check_control(description: Description, control: ControlNet) -> None:
    """Raise ValueError for a ControlNet that is of another U-Net than that of a description, or of other pictures."""
    unet = make_parts(description).network
    for name in SHARED:
        own, other = getattr(unet, name), getattr(control.unet, name)
        if own != other:
            raise ValueError(f"the ControlNet is of another model: its {name} is {other}, and that of this one {own}")
    height, _, channels = image_shape(description)
    factor = height // description.network.get("sample_size", 64)
    if (2 ** (len(control.widths) - 1), control.image_channels) != (factor, channels):
        raise ValueError(
            f"the ControlNet reads pictures of {2 ** (len(control.widths) - 1)} pixels a latent and "
            f"{control.image_channels} channels; the model has {factor} and {channels}"
        )
