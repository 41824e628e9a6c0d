"""The prompts that pictures are measured against, and the text towers that the pictures were conditioned by."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from guided_jax.app import run as runs
from guided_jax.app.sample import prompt_files
from guided_jax.metrics import clip
from guided_jax.metrics.sets import PictureSet


class Captions(NamedTuple):
    """texts: each of them once. labels: the number of each picture's text. source: the file that has them."""

    texts: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    source: Path


def read(samples: PictureSet, path: Path, file: Path | None) -> Captions:
    """Return the captions of a file, as --prompts takes it, or the prompts recorded beside the samples in `path`.

    The labels of the samples number them; captions of a file are in the order of samples without labels. ValueError where
    there are none, and for a label that has none.
    """
    source = record_of(path) if file is None else file
    texts = _prompts(path) if file is None else _of_file(file)
    if samples.labels is not None:
        labels = samples.labels
        if labels.min() < 0 or labels.max() >= len(texts):
            raise ValueError(
                f"{source} has {len(texts)} captions, and the labels of {path} go from {labels.min()} to {labels.max()}; "
                "write a line for each label from 0"
            )
    elif len(texts) != samples.size:
        raise ValueError(
            f"{source} has {len(texts)} captions and {path}, without labels, {samples.size} pictures; give one for each"
        )
    else:
        labels = np.arange(len(texts))
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return Captions(tuple(numbers), np.array([numbers[text] for text in texts])[labels], source)


def _of_file(file: Path) -> list[str]:
    """Return the captions of a file; ValueError for one of states, which no other tower reads."""
    if file.suffix == ".npz":
        raise ValueError(f"{file} is no text file of captions; write one on each line")
    return [row.prompt for row in prompt_files.read_file(file, ())]


def record_of(path: Path) -> Path:
    """Return the path of the request beside samples: samples.json beside samples.npz."""
    return path.with_suffix(".json")


def _prompts(path: Path) -> list[str]:
    """Return the prompts that samples were drawn from, in the order of their labels; ValueError where none are recorded."""
    request = _request(path)
    texts, labels = request.get("prompt"), request.get("labels")
    if not isinstance(texts, list) or not isinstance(labels, list) or not all(isinstance(each, str) for each in texts):
        raise ValueError(
            f"no prompts are recorded in {record_of(path)}; name a file of them with --captions, one on each line"
        )
    found = texts[: len(labels)]  # after them come those of --also
    if any(map(prompt_files.is_name_of_states, found)):
        raise ValueError(f"{path} was drawn from states, whose words are not recorded; name captions with --captions")
    weighted = (request.get("text") or {}).get("weighted")
    return [prompt_files.without_weights(text) for text in found] if weighted else found


def _request(path: Path) -> dict[str, Any]:
    """Return the request beside samples, empty where there is none that can be read."""
    try:
        found = json.loads(record_of(path).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Prompts(NamedTuple):
    """What pictures are measured against: captions, the CLIP that measures, notes on it."""

    captions: Captions
    scorer: clip.Scorer
    notes: list[str]


def open_prompts(
    folder: Path, samples: PictureSet, path: Path, file: Path | None = None, same_tower: bool = False
) -> Prompts:
    """Return what samples are measured against; raise ValueError for all that can be refused before a picture is read.

    folder: of a CLIP. path: of the samples. file: as of `read`. same_tower: whether to measure even by the text tower that
    the samples were conditioned by, which is refused otherwise.
    """
    found = read(samples, path, file)
    scorer = clip.load_scorer(folder)
    clip.check_shape(scorer, samples)
    return Prompts(found, scorer, check_tower(scorer, folder, path, same_tower))


def check_tower(scorer: clip.Scorer, folder: Path, path: Path, allowed: bool) -> list[str]:
    """Return notes on the towers that conditioned and guided the samples in `path`; ValueError for the scorer's own.

    folder: of the scorer, for the message. allowed: whether to measure nevertheless.
    """
    guided = _check_guide(scorer, folder, path, allowed)
    run = _request(path).get("run")
    try:
        towers = runs.text_towers(Path(str(run))) if run else None
    except (OSError, ValueError):
        towers = None
    if towers is None:
        why = f"the run {run} cannot be read" if run else f"{record_of(path)} names no run"
        return [*guided, f"whether the samples were conditioned by this CLIP is unknown, as {why}"]
    if not clip.is_tower_of(scorer, towers):
        return guided
    return [*guided, *_same(f"the text tower of {folder} is the one that {run} conditioned the samples by", allowed)]


def _check_guide(scorer: clip.Scorer, folder: Path, path: Path, allowed: bool) -> list[str]:
    """Return a note on the CLIP of --clip-model that guided the samples; ValueError if it is the scorer."""
    guide = (_request(path).get("method") or {}).get("clip_model")
    if guide is None:
        return []
    try:
        same = clip.load_scorer(Path(guide)).name == scorer.name
    except (OSError, ValueError):
        return [f"whether the samples were guided by this CLIP is unknown, as {guide} cannot be read"]
    return _same(f"the CLIP of {folder} is the one that guided the samples", allowed) if same else []


def _same(what: str, allowed: bool) -> list[str]:
    """Return the note that a score by this tower favours the samples; ValueError where that is not allowed."""
    if not allowed:
        raise ValueError(f"{what}, and favours them; give another CLIP, or --allow-same-tower")
    return [f"{what}, and favours them"]


def align(prompts: Prompts, samples: PictureSet, devices: Sequence[jax.Device], batch_size: int) -> dict[str, Any]:
    """Return the metrics against the prompts, and what they were computed from, `batch_size` pictures at a time."""
    (texts, labels, source), scorer, notes = prompts
    of_texts = clip.text_features(scorer, texts, devices, batch_size)
    of_images = clip.image_features(scorer, samples, devices, batch_size)
    found = clip.evaluate(of_images, of_texts, labels)
    if certain := [str(k) for k in clip.TOPS if k >= len(texts)]:
        said = "one prompt" if len(texts) == 1 else f"{len(texts)} different prompts"
        notes = [*notes, f"retrieval, top {' and '.join(certain)}, is certain with {said}, and left out"]
    return {
        "clip": scorer.name,
        "prompts": f"{source}: {len(texts)} different ones",
        "samples": found.samples,
        "chance": found.chance,
        "notes": notes,
    }
