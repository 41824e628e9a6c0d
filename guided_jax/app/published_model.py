"""The run of a published model: what `guided-jax convert` writes of a checkpoint, and what the commands draw from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from guided_jax import models
from guided_jax.app.facts import Facts
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


def fields(description: Description) -> dict[str, Any]:
    """Return the fields of the module that a guidance may change, with their usual values."""
    module = published.make_parts(description).network
    usual = {"perturb_blocks": tuple(models.perturbation.perturbed_blocks(module))}
    if description.family in ("edm2", "sd"):
        return usual
    middle = (module.depth - 1) // 2
    first, count = module.depth * 7 // 24, max(1, module.depth // 8)  # of SD 3.5, which skips 7, 8 and 9 of its 24
    return {
        **usual,
        "skip_blocks": tuple(f"blocks_{first + i}" for i in range(count)),
        "exit_block": f"blocks_{middle}" if module.internal_head is None else module.internal_head,
    }


def prepare(description: Description, dtype: str, part: str, params: Any) -> Any:
    """Return the params as the networks compute with them, for a drawing to make once, before its steps."""
    return published.prepare(description, params, jnp.dtype(dtype))
