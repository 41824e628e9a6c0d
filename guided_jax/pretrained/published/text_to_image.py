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
from guided_jax.models import attention_mass
from guided_jax.models.clip import CLIPText
from guided_jax.pretrained import clip
from guided_jax.pretrained.published import levels as tables
from guided_jax.pretrained.published.description import Description, Text


class Prompt(NamedTuple):
    """The raw condition of a text-to-image model, for one example.

    ids: (towers, 77), the tokens for each text tower; (77,) for one. (towers, n, 77) of n windows, whose states follow one
    another. sizes: (6,) of a Stable Diffusion XL, the height and width of the original picture, the top and left of its
    crop, the height and width of the target; None for the size of the picture that is drawn. keep: 0 for no prompt at all,
    whose states are zeros, as XL has it without a negative prompt; 1 for any other. inpaint: (h, w, 5) of a network with
    nine channels, the mask and the latents of the masked picture. weights: of the states of each token, shaped as ids; None
    for 1. skip: layers that are left out at the end of each tower ("clip skip"). states: `States` in the place of ids.
    """

    ids: Any = None
    sizes: Any = None
    keep: Any = 1.0
    inpaint: Any = None
    weights: Any = None
    skip: Any = 0
    states: Any = None


class States(NamedTuple):
    """What the text towers make of a prompt.

    context: (tokens, width), their states beside each other. pooled: (width of the last,), its projected text, of a Stable
    Diffusion XL; else None.
    """

    context: Any
    pooled: Any = None


def make_text_model(module: Any, description: Description) -> Model:
    """Return the model of a U-Net, still without its autoencoder; its raw condition is a `Prompt`, or token ids alone."""
    text = description.text
    assert text is not None
    side, channels = description.network.get("sample_size", 64), module.out_channels
    encode = make_condition(description)

    def network(params: PyTree, x: Array, time: Array, condition: dict[str, Array]) -> Array:
        given, known = _arguments(x, condition)
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


def make_attention(module: Any) -> Callable[[PyTree, Array, Array, Any], Array]:
    """Return (params, x, time, condition) -> the attention to each pixel of x in the middle of a U-Net."""

    def attention(params: PyTree, x: Array, time: Array, condition: dict[str, Array]) -> Array:
        given, known = _arguments(x, condition)
        return attention_mass(module, params["network"], given, time, condition["context"], **known)

    return attention


def _arguments(x: Array, condition: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
    """Return what a U-Net is called with beside the text: x, of inpainting with the known part, and what XL is told."""
    known: dict[str, Any] = {name: condition[name] for name in ("pooled", "time_ids", "control") if name in condition}
    return (jnp.concatenate([x, condition["inpaint"]], axis=-1) if "inpaint" in condition else x), known


def make_towers(text: Text, dtype: Any = None) -> list[CLIPText]:
    """Return the text towers; that whose projected text the network reads, the last of XL's, has its projection."""
    last = len(text.towers) - 1
    return [clip.make_text(each, dtype, text.is_penultimate and i == last) for i, each in enumerate(text.towers)]


def make_condition(description: Description) -> Callable[[PyTree, Any], dict[str, Array]]:
    """Return `Model.condition`: (params, raw) -> the states of the text towers, and what else the network reads.

    The towers compute in float32 also beside a network in bfloat16, with their weights as they are: they run once, before
    the steps, and their states have half the error so.
    """
    text = description.text
    assert text is not None
    towers = make_towers(text)

    def condition(params: PyTree, raw: Any) -> dict[str, Array]:
        prompt = raw if isinstance(raw, Prompt) else Prompt(raw)
        states = _encode(towers, params["text"], prompt, text) if prompt.states is None else States(*prompt.states)
        made = {"context": states.context * prompt.keep}
        if text.is_penultimate:  # of XL
            made |= {"pooled": states.pooled * prompt.keep, "time_ids": _sizes(prompt.sizes, description)}
        return made if prompt.inpaint is None else {**made, "inpaint": jnp.asarray(prompt.inpaint)}

    return condition


def _encode(towers: list[CLIPText], params: list[PyTree], prompt: Prompt, text: Text) -> States:
    """Return what the towers make of a prompt; the projected text is that of its first window."""
    shape = jnp.shape(prompt.ids)
    ids = jnp.asarray(prompt.ids).reshape(len(towers), -1, shape[-1])
    weights = [None] * len(towers) if prompt.weights is None else jnp.asarray(prompt.weights).reshape(ids.shape)
    found, pooled = [], None
    for tower, own, row, weight in zip(towers, params, ids, weights, strict=True):
        states = _read(tower, own, row, text, prompt.skip)
        states = states if weight is None else clip.weigh(states, weight)
        found.append(states.reshape(-1, states.shape[-1]))
    if text.is_penultimate:
        last: Any = towers[-1].apply(params[-1], ids[-1])  # the layers of `_read` again, which one program runs once
        pooled = last.projected[0]
    return States(jnp.concatenate(found, axis=-1), pooled)


def _read(tower: CLIPText, params: PyTree, ids: Array, text: Text, skip: Any) -> Array:
    """Return the states that the network reads of a tower, `skip` layers earlier."""
    found: Any = tower.apply(params, ids, method="hidden_states")
    layers = jnp.stack(found).astype(jnp.float32)
    states = layers[len(layers) - 1 - text.is_penultimate - skip]
    return states if text.is_penultimate else jnp.asarray(tower.apply(params, states, method="normalize"))


def _sizes(sizes: Any, description: Description) -> Array:
    """Return the six numbers of a prompt; without any the whole picture, at the size that is drawn."""
    if sizes is not None:
        return jnp.asarray(sizes, jnp.float32)
    factor = 2 ** (len(description.latents.autoencoder["block_out_channels"]) - 1) if description.latents else 8
    side = float(description.network.get("sample_size", 128) * factor)
    return jnp.array([side, side, 0.0, 0.0, side, side])
