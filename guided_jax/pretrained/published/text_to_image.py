"""The model of a Stable Diffusion: prompts go through its text towers, once, and condition its U-Net.

    params = {"network": the U-Net, "autoencoder": ..., "text": the variables of each text tower}

Sources: [LDM] Rombach et al. 2112.10752, [SDXL] Podell et al. 2307.01952.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from guided_jax.model import Model
from guided_jax.models.clip import CLIPText
from guided_jax.pretrained import clip
from guided_jax.pretrained.published import levels as tables
from guided_jax.pretrained.published.description import Description, Text


class Prompt(NamedTuple):
    """The raw condition of a text-to-image model, for one example.

    ids: (towers, 77), the tokens for each text tower; (77,) for one. sizes: (6,) of a Stable Diffusion XL, the height and
    width of the original picture, the top and left of its crop, the height and width of the target; None for the size of
    the picture that is drawn. keep: 0 for no prompt at all, whose states are zeros, as XL has it without a negative prompt;
    1 for any other. inpaint: (h, w, 5) of a network with nine channels, the mask and the latents of the masked picture.
    """

    ids: Any
    sizes: Any = None
    keep: Any = 1.0
    inpaint: Any = None


def make_text_model(module: Any, description: Description) -> Model:
    """Return the model of a U-Net, still without its autoencoder; its raw condition is a `Prompt`, or token ids alone."""
    text = description.text
    assert text is not None
    side, channels = description.network.get("sample_size", 64), module.out_channels
    encode = make_condition(description)

    def network(params: PyTree, x: Array, time: Array, condition: dict[str, Array]) -> Array:
        known = {name: condition[name] for name in ("pooled", "time_ids") if name in condition}
        given = jnp.concatenate([x, condition["inpaint"]], axis=-1) if "inpaint" in condition else x
        return module.apply(params["network"], given, time, condition["context"], **known)

    ids = np.asarray(text.null, np.int32)
    return Model(
        network,
        tables.of_scheduler(description.schedule),
        tables.parameterization_of(description.schedule),
        shape=(side, side, channels),
        condition=encode,
        null=Prompt(ids, keep=0.0 if text.zero_null else 1.0),
    )


def make_towers(text: Text, dtype: Any = None) -> list[CLIPText]:
    """Return the text towers; that whose projected text the network reads, the last of XL's, has its projection."""
    last = len(text.towers) - 1
    return [clip.make_text(each, dtype, text.is_penultimate and i == last) for i, each in enumerate(text.towers)]


def make_condition(description: Description, skip: int = 0) -> Callable[[PyTree, Any], dict[str, Array]]:
    """Return `Model.condition`: (params, raw) -> the states of the text towers, and what else the network reads.

    skip: layers that are left out at the end of the towers, for states that are read after the last one ("clip skip").
    """
    text = description.text
    assert text is not None
    towers = make_towers(text)

    def condition(params: PyTree, raw: Any) -> dict[str, Array]:
        prompt = raw if isinstance(raw, Prompt) else Prompt(raw)
        ids = jnp.asarray(prompt.ids).reshape(len(towers), -1)
        found = [_read(tower, p, row, text, skip) for tower, p, row in zip(towers, params["text"], ids, strict=True)]
        context = jnp.concatenate([states for states, _ in found], axis=-1) * prompt.keep
        made = {"context": context}
        if text.is_penultimate:  # of XL
            made |= {"pooled": found[-1][1] * prompt.keep, "time_ids": _sizes(prompt.sizes, description)}
        return made if prompt.inpaint is None else {**made, "inpaint": jnp.asarray(prompt.inpaint)}

    return condition


def _read(tower: Any, params: PyTree, ids: Array, text: Any, skip: int) -> tuple[Array, Array | None]:
    """Return (the states that the network reads, the projected text or None) of a tower."""
    if text.is_penultimate:
        features = tower.apply(params, ids)
        return features.penultimate.astype(jnp.float32), features.projected
    states = tower.apply(params, ids, method="hidden_states")
    return tower.apply(params, states[-(skip + 1)], method="normalize"), None


def _sizes(sizes: Any, description: Description) -> Array:
    """Return the six numbers of a prompt; without any the whole picture, at the size that is drawn."""
    if sizes is not None:
        return jnp.asarray(sizes, jnp.float32)
    factor = 2 ** (len(description.latents.autoencoder["block_out_channels"]) - 1) if description.latents else 8
    side = float(description.network.get("sample_size", 128) * factor)
    return jnp.array([side, side, 0.0, 0.0, side, side])
