"""The run of a published model: what `guided-jax convert` writes of a checkpoint, and what the commands draw from."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax.app import network_fields
from guided_jax.app.facts import Facts
from guided_jax.app.network_fields import Field
from guided_jax.model import Model
from guided_jax.pretrained import clip, published, readers, stable_diffusion
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


class TextModel(NamedTuple):
    """What a text-to-image run is told, beside the classes that its prompts become.

    tokenize: (texts, weighted, windows) -> `Prompt`, a row for each text; weighted: whether brackets in them are weights;
        windows: how many times 77 tokens a text may have.
    depth: the layers of its shallowest tower. widths: of a prompt's states, and of its projected text where that is read.
    zero_null: whether no negative prompt stands for zeros instead of an empty one. takes_sizes: whether it is told the
        sizes of pictures, as XL is. takes_mask: whether it is told what to paint in, by nine channels.
    factor: pixels of a latent, a side. classifier: prompts -> (params, x_t, level) -> how well x_t shows each, by a CLIP of
        noisy examples; None where there is none.
    """

    tokenize: Callable[[Sequence[str], bool, int], published.Prompt]
    depth: int
    widths: tuple[int, ...]
    zero_null: bool
    takes_sizes: bool
    takes_mask: bool
    factor: int
    classifier: Callable[[published.Prompt], Callable[..., Any]] | None = None


def make_text(description: Description, directory: Path) -> TextModel | None:
    """Return `Run.text` with the tokenizers of a directory; None for a model that takes no prompts."""
    text = description.text
    if text is None:
        return None
    folders = [directory / name for name in TOKENIZERS[: len(text.towers)]]
    parts, model = published.make_parts(description), published.make_model(description)
    shapes = jax.eval_shape(model.condition, published.param_shapes(description), model.null)
    widths = tuple(shapes[name].shape[-1] for name in ("context", "pooled") if name in shapes)
    return TextModel(
        functools.partial(tokenize, functools.cache(lambda: [clip.tokenizer(folder) for folder in folders])),
        min(tower["num_hidden_layers"] for tower in text.towers),
        widths,
        text.zero_null,
        takes_sizes=text.is_penultimate,
        takes_mask=parts.network.in_channels > parts.network.out_channels,
        factor=published.image_shape(description)[0] // model.shape[0],
    )


def tokenize(
    tokenizers: Callable[[], list[clip.Tokenizer]], texts: Sequence[str], weighted: bool = False, windows: int = 1
) -> published.Prompt:
    """Return a `Prompt` of a row for each text, its ids (n, towers, windows, 77); arguments as of `TextModel.tokenize`."""
    given, weights = list(texts), None
    if weighted:
        found = [each.weighted(given, windows) for each in tokenizers()]
        ids, weights = (jnp.stack(column, axis=1) for column in zip(*found, strict=True))
    else:
        ids = jnp.stack([each(given, windows) for each in tokenizers()], axis=1)
    shape, ones = (*ids.shape[:2], windows, -1), jnp.ones(len(given))
    weights = None if weights is None else weights.reshape(shape)
    return published.Prompt(ids.reshape(shape), keep=ones, skip=0 * ones.astype(int), weights=weights)


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
    """Return `Run.attention`, which takes neither a low-resolution picture nor an estimate."""
    made = published.make_attention(description, jnp.dtype(dtype))
    return lambda params, x, time, condition, *neither: made(params, x, time, condition)


def data_std(description: Description) -> float:
    """Return the standard deviation of x, about: that of the preconditioning of EDM2; scaled latents have 1, pixels 0.5."""
    return 1.0 if description.family != "edm2" and published.make_model(description).shape[-1] != 3 else 0.5


def prepare(description: Description, dtype: str, part: str, params: Any) -> Any:
    """Return the params as the networks compute with them, for a drawing to make once, before its steps."""
    return published.prepare(description, params, jnp.dtype(dtype))


class Folder(NamedTuple):
    """A folder of diffusers: the description that it makes, and its weights, read when they are called for."""

    description: Description
    load: Callable[[], Any]


def is_folder(directory: Path) -> bool:
    """Return whether this is a folder of diffusers, and no run."""
    return (directory / "model_index.json").is_file() and not (directory / "config.json").exists()


def read_text_towers(directory: Path) -> list[Any]:
    """Return the params of the text towers of a folder of diffusers, alone; none where it has no tower."""
    description, weights = published.read(directory)
    return [] if description.text is None else published.import_towers(description.text, weights)


def read_folder(directory: Path) -> Folder:
    """Return what a folder of diffusers holds; errors as of `pretrained.load`."""
    description, weights = published.read(directory)
    return Folder(description, lambda: published.import_weights(description, weights))


def make_load_control(description: Description, dtype: str) -> Callable[[Path], tuple[Any, Any]] | None:
    """Return `Run.load_control`; None for a model that is no Stable Diffusion."""

    def load(folder: Path) -> tuple[Any, Any]:
        control, params = stable_diffusion.load_control(*readers.read_component(folder), jnp.dtype(dtype))
        published.check_control(description, control)
        return lambda network: published.make_controlled(network, control), params

    return None if description.text is None else load


def make_merge_lora(description: Description) -> Callable[[Any, Any, float], Any] | None:
    """Return `Run.merge_lora`; None for a model that is no Stable Diffusion."""
    return None if description.text is None else functools.partial(published.merge_lora, description)
