"""The run of a published model: what `guided-jax convert` writes of a checkpoint, and what the commands draw from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from guided_jax import models
from guided_jax.app import network_fields
from guided_jax.app.facts import Facts
from guided_jax.app.network_fields import Field
from guided_jax.model import Model
from guided_jax.pretrained import clip, published
from guided_jax.pretrained.published import Description

TOKENIZERS = ("tokenizer", "tokenizer_2")  # folders in that of the run, one for each text tower
DECODE_SIZE = 4  # pictures that the decoder makes at once on each device: it needs more memory than all steps before


def facts_of(description: Description) -> Facts:
    """Return what the checkpoint tells of the data: its shape and classes, all of them equally frequent.

    A model of latents without its autoencoder draws arrays.
    """
    shape = published.image_shape(description)
    kind: Any = "pictures" if description.latents is not None or shape[-1] in (1, 3) else "arrays"
    classes = published.count_classes(description) or 1
    names = description.class_names
    return Facts(shape, classes, (1 / classes,) * classes, class_names=names, kind=kind)


def make_tokenize(description: Description, directory: Path) -> Callable[[Sequence[str]], Any] | None:
    """Return `Run.tokenize` by the tokenizers of a run directory; None for a model that takes no prompts."""
    if description.text is None:
        return None
    folders = [directory / name for name in TOKENIZERS[: len(description.text.towers)]]

    def tokenize(texts: Sequence[str]) -> published.Prompt:
        ids = np.stack([np.asarray(clip.tokenizer(folder)(list(texts)), np.int32) for folder in folders], axis=1)
        return published.Prompt(ids, keep=np.ones(len(texts), np.float32))

    return tokenize


def is_conditional(description: Description) -> bool:
    """Return whether the network takes a class."""
    return description.text is not None or bool(published.count_classes(description))


def make_model(description: Description, dtype: str) -> Model:
    """Return the model; its raw condition is the class."""
    return published.make_model(description, jnp.dtype(dtype))


def make_variant(description: Description, dtype: str, fields: Any, low_res: Any = None, estimate: Any = None) -> Any:
    """Return `Model.network` with other fields of its module; as `Run.variant`, but for an upsampler and an estimate."""
    if low_res is not None or estimate is not None:
        raise ValueError("a published model takes no low-resolution picture and no estimate")
    return published.make_model(description, jnp.dtype(dtype), lambda module: module.clone(**fields)).network


def fields(description: Description) -> dict[str, Field]:
    """Return the fields of the module that a guidance may change."""
    return network_fields.of_module(published.make_parts(description).network)


def make_attention(description: Description, dtype: str) -> Any:
    """Return (params, x, time, label, low_res, estimate) -> the attention to each pixel of x, as `Run.attention`."""
    module = published.make_parts(description, jnp.dtype(dtype)).network

    def attention(params: Any, x: Any, time: Any, label: Any, low_res: Any = None, estimate: Any = None) -> Any:
        if not isinstance(label, dict):
            return models.attention_mass(module, params["network"], x, time, label)
        named = {name: label[name] for name in ("pooled", "time_ids") if name in label}  # of a prompt
        given = jnp.concatenate([x, label["inpaint"]], axis=-1) if "inpaint" in label else x
        return models.attention_mass(module, params["network"], given, time, label["context"], **named)

    return attention


def data_std(description: Description) -> float:
    """Return the standard deviation of x, about: that of the preconditioning of EDM2; scaled latents have 1, pixels 0.5."""
    return 1.0 if description.family != "edm2" and published.make_model(description).shape[-1] != 3 else 0.5


def prepare(description: Description, dtype: str, part: str, params: Any) -> Any:
    """Return the params as the networks compute with them, for a drawing to make once, before its steps."""
    return published.prepare(description, params, jnp.dtype(dtype))
