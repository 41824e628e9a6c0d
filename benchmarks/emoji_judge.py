"""A judge of emoji: the CLIP of another run, which guided nothing, and what it says of pictures and captions."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measured import table
from guided_jax import forward, metrics, parallel, schedule
from guided_jax.app import networks, texts, trained_model
from guided_jax.app import run as runs
from guided_jax.metrics.alignment import retrieval
from guided_jax.storage import images

NUMBERS = {"top1": "top-1", "top5": "top-5", "fd": "distance", "precision": "precision", "recall": "recall"}
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # at which a CLIP is asked, as shares of the schedule's steps
PART = 256  # pictures at a time


class Judge:
    """The towers of a run's CLIP: `features` of pictures as they are, and `texts`, those of the captions."""

    def __init__(self, place: Path, captions: Sequence[str]):
        run = runs.load(place)
        own = networks.texts_of(run.experiment, run.facts)
        picture, text = trained_model.make_towers(run.experiment, own, run.networks.classifier)
        self.captions, self.levels, self.params = list(captions), run.model.levels, run.params("classifier")
        self.embed, read = jax.jit(picture), jax.jit(text)
        # Encoded part by part: the states of all captions together are a hundred times what a tower makes of them.
        parts = [texts.encode(own, part) for part in np.array_split(self.captions, -(-len(captions) // PART))]
        self.texts = np.concatenate([read(self.params, jnp.asarray(part)) for part in parts])

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Return the embeddings of uint8 pictures, at level 1: the least noise that the CLIP was trained on."""
        parts, first = np.array_split(pictures, -(-len(pictures) // PART)), schedule.at(self.levels, 1)
        return np.concatenate([self.embed(self.params, images.from_uint8(part), first) for part in parts])

    def numbers(self, captions: Sequence[str]) -> np.ndarray:
        """Return the position of each caption among the judge's."""
        number = {caption: i for i, caption in enumerate(self.captions)}
        return np.array([number[caption] for caption in captions])

    def look(self, captions: Sequence[str], pictures: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        """Return `NUMBERS` of pictures that were drawn for captions. reference: the features of real pictures."""
        features = self.features(pictures)
        found = retrieval(features, self.texts, self.numbers(captions), (1, 5))
        distance = metrics.frechet_distance(*metrics.moments(features), *metrics.moments(reference))
        precision, recall = metrics.precision_recall(features, reference)
        top = {f"top{k}": each.score.mean for k, each in found.items()}
        return {**top, "fd": float(distance), "precision": float(precision), "recall": float(recall)}

    def by_level(self, pictures: np.ndarray, captions: Sequence[str]) -> str:
        """Return the table of how often the caption of a noisy picture is found among all captions, by noise level."""

        def embed(key: Any, picture: Any, position: Any) -> Any:
            level = schedule.at(self.levels, position)
            x_t = forward.diffuse(picture, jax.random.normal(key, picture.shape), level)
            return self.embed(self.params, x_t, level)

        real, devices = images.from_uint8(pictures), parallel.choose_devices(PART)
        asked = [max(round(share * (len(self.levels.t) - 1)), 1) for share in NOISE]
        given = real, self.texts, self.numbers(captions), asked, jax.random.key(0), devices, PART
        found = metrics.retrieval_by_level(embed, *given)
        tops = [
            (f"top-{k}", *(f"{found[at][k].score.mean:.3f} ± {found[at][k].score.error:.3f}" for at in asked))
            for k in (1, 5)
        ]
        return table(("t", *map(str, asked)), tops)


def check(judge: Path, *guides: Path) -> None:
    """Raise ValueError for a judge that guides."""
    for run in guides:
        if judge.resolve() == run.resolve():
            raise ValueError(f"the CLIP of {run} guides, and favours what it guided; train another for --judge")


def captions_of(run: runs.Run) -> tuple[str, ...]:
    """Return every caption of the run's data once, in its order."""
    plain = dataclasses.replace(run.experiment.data, text="none")
    return tuple(dict.fromkeys(each for held_out in (False, True) for each in plain.make(held_out).captions or ()))
