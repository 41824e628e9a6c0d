"""Features of pictures and of prompts in the space of one CLIP, for `alignment`.

Sources: [CLIP] Radford et al. 2103.00020; [CLIPScore] Hessel et al. 2104.08718.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from guided_jax import parallel
from guided_jax.metrics.alignment import Score, clip_score, mismatched_clip_score, retrieval
from guided_jax.metrics.features import FeatureFunction, Features, extractor
from guided_jax.metrics.inception import rgb
from guided_jax.metrics.judge import digest
from guided_jax.metrics.sets import PictureSet, summary_of
from guided_jax.models.clip import preprocess_uint8
from guided_jax.pretrained import clip
from guided_jax.pretrained.clip import Checkpoint

LETTERS = {768: "B", 1024: "L", 1280: "H", 1408: "g", 1664: "bigG"}  # width -> the letter of the vision tower's size
TOPS = (1, 5)  # prompts among which a picture's own is looked for


class Scorer(NamedTuple):
    """A CLIP that measures. name: the size of its vision tower, and a digest of its weights."""

    name: str
    checkpoint: Checkpoint


def load_scorer(folder: Path) -> Scorer:
    """Return the CLIP of a folder; errors as of `pretrained.clip.load_folder`."""
    checkpoint = clip.load_folder(folder)
    vision = checkpoint.module.vision
    size = f"ViT-{LETTERS.get(vision.width, vision.width)}/{vision.patch_size}"
    return Scorer(f"CLIP {size} {digest(checkpoint.params)}", checkpoint)


def is_tower_of(scorer: Scorer, towers: Sequence[Any]) -> bool:
    """Return whether the text tower of the scorer is one of these; towers: the params of text towers."""
    own = {"params": scorer.checkpoint.params["params"]["text"]}
    return any(clip.same_weights(own, each) for each in towers)


def check_shape(scorer: Scorer, pictures: PictureSet) -> None:
    """Raise ValueError, before any picture is read, for pictures that the scorer does not take."""
    jax.eval_shape(_image_function(scorer), jax.ShapeDtypeStruct(pictures.shape, jnp.uint8))


def image_features(
    scorer: Scorer, pictures: PictureSet, devices: Sequence[jax.Device], batch_size: int
) -> Float[np.ndarray, "n d"]:
    """Return the features of all pictures, of one or three channels, prepared by `preprocess_uint8`.

    batch_size: pictures at a time, over the devices; the network is compiled once.
    """
    batch_size = parallel.chunk_size(pictures.size, batch_size, devices)
    extract = extractor(_image_function(scorer), devices, batch_size)
    return summary_of(extract, pictures, batch_size).features


def _image_function(scorer: Scorer) -> FeatureFunction:
    module, params, _, mean, std = scorer.checkpoint

    def features(picture: UInt8[Array | np.ndarray, "h w c"]) -> Features:
        pixels = preprocess_uint8(rgb(picture), module.vision.image_size, mean, std)
        found: Any = module.apply(params, pixels, method="encode_image")
        return Features(found.projected)

    return features


def text_features(
    scorer: Scorer, texts: Sequence[str], devices: Sequence[jax.Device], batch_size: int
) -> Float[np.ndarray, "m d"]:
    """Return the features of all texts; those of which CLIP reads the same tokens have the same.

    batch_size: texts at a time, over the devices; the network is compiled once.
    """
    module, params, tokenize = scorer.checkpoint[:3]
    ids, place = np.unique(np.asarray(tokenize(list(texts))), axis=0, return_inverse=True)

    def features(ids: Int[Array | np.ndarray, " length"]) -> Array:
        found: Any = module.apply(params, ids, method="encode_text")
        return found.projected

    extract = extractor(features, devices, parallel.chunk_size(len(ids), batch_size, devices))
    return np.concatenate([np.asarray(chunk.pool) for chunk in extract([ids])])[place.reshape(-1)]


class Aligned(NamedTuple):
    """{name: value} by the names of `evaluation.TITLES`: of the samples, and of pictures that know nothing of prompts."""

    samples: dict[str, float]
    chance: dict[str, float]


def evaluate(
    images: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "m d"], labels: Int[np.ndarray, " n"]
) -> Aligned:
    """Return the CLIP score and the retrieval accuracies that are not certain: those of fewer places than prompts.

    images, texts: their features. labels: the number of each picture's prompt. Standard errors have the names of
    `evaluation.DEVIATIONS`; of the retrieval by chance it is that of a guess for each picture.
    """
    score = clip_score(images, texts[labels])
    samples, chance = _named("clip_score", score), {}
    if len(texts) > 1:
        chance = _named("clip_score", mismatched_clip_score(images, texts, labels))
    for k, found in retrieval(images, texts, labels, [k for k in TOPS if k < len(texts)]).items():
        samples |= _named(f"retrieval_top{k}", found.score)
        chance |= {f"retrieval_top{k}": found.chance, f"retrieval_top{k}_error": found.floor}
    return Aligned(samples, chance)


def _named(name: str, score: Score) -> dict[str, float]:
    return {name: score.mean, f"{name}_error": score.error}
