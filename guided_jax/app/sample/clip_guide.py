"""The CLIP of clean pictures that guides by `--guidance clip` or `--criterion clip`, and its texts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from guided_jax import criteria
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.sample.prompt_files import is_name_of_states, without_weights
from guided_jax.app.sample.request import CLIP, Method, Sampling
from guided_jax.pretrained import clip
from guided_jax.strength import LogProb

if TYPE_CHECKING:
    from guided_jax.app.sample.parts import Parts


def add_clip(run: runs.Run, folder: Path | None) -> runs.Run:
    """Return the run with the CLIP of a folder; ValueError for a folder that holds none."""
    if folder is None:
        return run
    from guided_jax.metrics.clip import load_scorer  # with all that measures, which drawing alone does not need

    try:
        return run._replace(clip=load_scorer(folder))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"--clip-model: {error}") from None


def parse(word: str) -> tuple[str, float]:
    """Return (text, weight) of a word of --clip-text; 1 without a weight, which is a number after the last colon.

    >>> parse("a zebra"), parse("a horse:-0.5"), parse("12:30 o'clock")
    (('a zebra', 1.0), ('a horse', -0.5), ("12:30 o'clock", 1.0))
    """
    text, colon, number = word.rpartition(":")
    try:
        weight = float(number) if colon else math.nan
    except ValueError:
        weight = math.nan
    return (text, weight) if text and math.isfinite(weight) else (word, 1.0)


def check(method: Method, run: runs.Run) -> None:
    """Raise ValueError without a CLIP or texts, and for pictures that it does not take."""
    asked = "--criterion clip" if method.criterion == CLIP else "--guidance clip"
    if run.clip is None:
        raise ValueError(f"{asked} needs a CLIP; name its folder by --clip-model")
    facts.check_pictures(run.facts, asked)
    if (channels := run.facts.image_shape[-1]) not in (1, 3):
        raise ValueError(f"{asked} is for pictures of 1 or 3 channels, and the run draws {channels}; use another")
    if not all(text and not is_name_of_states(text) for text in _texts(method, run)):
        raise ValueError(f"{asked} has no text to guide towards; name it by --clip-text")


def _texts(method: Method, run: runs.Run) -> Sequence[str]:
    """Return the texts of --clip-text, or those of a text-to-image run's prompts, one a label."""
    if method.clip_text:
        return [parse(word)[0] for word in method.clip_text]
    return run.facts.class_names or ("",) if run.text is not None else ("",)


def params_of(options: Sampling, run: runs.Run, device: jax.Device) -> dict[str, Any]:
    """Return the vision tower and the embeddings of the texts, (texts, d)."""
    from guided_jax.metrics.clip import text_features

    kept = {name: leaf for name, leaf in run.clip.checkpoint.params["params"].items() if name != "text"}
    words = _texts(options.method, run)
    if options.text.weighted and not options.method.clip_text:
        words = [without_weights(text) for text in words]
    features = text_features(run.clip, words, [device], batch_size=64)
    return {"tower": {"params": kept}, "texts": jnp.asarray(features, jnp.float32)}


def criterion(parts: "Parts") -> LogProb:
    """Return the criterion of x_0: how near crops of its picture are to the texts, or to this example's own prompt."""
    own, method = parts.params["clip"], parts.request
    tower = parts.run.clip.checkpoint._replace(params=own["tower"])
    weights = jnp.array([parse(word)[1] for word in method.clip_text]) if method.clip_text else None
    texts = own["texts"] if method.clip_text else own["texts"][parts.label]

    def embed(picture: Any, level: Any) -> Any:
        return clip.embed_image(tower, picture)

    of_pictures = criteria.over_cutouts(
        criteria.spherical(embed, texts, weights), parts.key, method.cutouts, tower.module.vision.image_size
    )
    weighted = [(criteria.smooth(), method.tv_weight), (criteria.in_range(), method.range_weight)]
    terms = [(of_pictures, 1.0), *(term for term in weighted if term[1])]
    total = criteria.all_of(*zip(*terms, strict=True))
    return lambda x_0, level: total(parts.decode(x_0), level)
