"""What is said of restored pictures: how near they are to the truth, and whether they vary as much as they are wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import emoji_judge
from guided_jax.app import run as runs
from guided_jax.losses.autoencoding import perceptual
from guided_jax.metrics.alignment import retrieval
from guided_jax.metrics.judge import is_trained, load_judge
from guided_jax.models.judge import feature_maps
from guided_jax.storage import images

STEPS = 16  # of grey, to which pixels are rounded before they are ranked: those of the digits
PART = 256  # pictures at a time


class Judge(NamedTuple):
    """What compares pictures with the truth.

    name: what tells it from others. accuracy: (pictures, labels) -> the share that is recognised. features: pictures ->
    arrays (n, height, width, channels).
    """

    name: str
    accuracy: Callable[[np.ndarray, np.ndarray], float]
    features: Callable[[np.ndarray], list[np.ndarray]]


def make_judge(run: runs.Run, folder: Path, given: Path | None) -> Judge:
    """Return the judge of a run; ValueError where it was not trained."""
    if run.text is not None:
        return text_judge(run, folder, given)
    place = given or folder / "judge"
    if not is_trained(place):
        raise ValueError(f"{place} is no trained judge; make one: guided-jax judge {folder}")
    trained = load_judge(place)
    apply = jax.jit(lambda x: trained.network.apply(trained.params, x)[1].argmax(-1))
    maps = jax.jit(lambda x: feature_maps(trained.network, trained.params, x))

    def accuracy(pictures: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean(in_parts(lambda x: [apply(x)], pictures)[0] == labels))

    return Judge(trained.name, accuracy, lambda pictures: in_parts(maps, pictures))


def text_judge(run: runs.Run, folder: Path, given: Path | None) -> Judge:
    """Return the CLIP of another run: its embedding, and whether it finds the caption of a picture among all captions."""
    if given is None:
        raise ValueError("this run draws from texts; name the run of another CLIP by --judge")
    emoji_judge.check(given, folder)
    judge = emoji_judge.Judge(given, emoji_judge.captions_of(run))

    def accuracy(pictures: np.ndarray, captions: np.ndarray) -> float:
        right = judge.numbers(list(captions))
        return float(retrieval(judge.features(pictures), judge.texts, right, (1,))[1].score.mean)

    return Judge(str(given), accuracy, lambda pictures: [judge.features(pictures)[:, None, None]])


def in_parts(function: Callable[[np.ndarray], list[Any]], pictures: np.ndarray) -> list[np.ndarray]:
    """Return what a function returns of uint8 pictures, PART at a time: each of its arrays for all of them."""
    scaled = images.from_uint8(pictures)
    found = [function(scaled[start : start + PART]) for start in range(0, len(scaled), PART)]
    return [np.concatenate([np.asarray(each) for each in arrays]) for arrays in zip(*found, strict=True)]


def numbers(drawn: np.ndarray, pictures: np.ndarray, labels: np.ndarray, hidden: Any, judge: Judge) -> dict[str, float]:
    """Return what the table says of samples (samples, n, *shape) in [-1, 1] of uint8 pictures (n, *shape).

    psnr: of a sample, in dB, and of the mean of the samples, which is 2.8 dB higher where 19 are exact.
    perceptual: the distance of [LPIPS], unweighted, in the features of the judge.
    accuracy: the share of samples that the judge takes for the true class.
    coverage: how often the truth is neither below nor above all samples, of pixels that are `hidden`, if some are.
    """
    truth, count = images.from_uint8(pictures), len(drawn)
    shown = images.to_uint8(drawn.reshape(-1, *pictures.shape[1:]), allow_non_finite=True)
    made = [jnp.asarray(each) for each in judge.features(shown)]
    real = [jnp.tile(each, (count, 1, 1, 1)) for each in judge.features(pictures)]
    return {
        "psnr": psnr(drawn, truth[None]),
        "mean psnr": psnr(drawn.mean(0), truth),
        "perceptual": float(perceptual(made, real).mean()),
        "accuracy": judge.accuracy(shown, np.tile(labels, count)),
        "coverage": coverage(drawn, truth, hidden),
        "score": ranked_score(drawn, truth),
    }


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    error = np.square(np.clip(found, -1, 1) - truth).mean((-3, -2, -1))
    return float((10 * np.log10(4 / error)).mean())


def coverage(drawn: np.ndarray, truth: np.ndarray, hidden: Any = None) -> float:
    """Return how often the truth has neither the lowest nor the highest rank among it and n samples.

    (n - 1) / (n + 1) for exact samples, whatever the law: all ranks are equally likely. Pixels are rounded to `STEPS` of
    grey, and equal ones share their ranks. Left out are pixels that are seen, and those where all of the n + 1 are equal.
    """
    steps = [np.round((np.clip(each, -1, 1) + 1) * (STEPS / 2)) for each in (drawn, truth)]
    below, equal = (each.sum(0) for each in (steps[0] < steps[1], steps[0] == steps[1]))
    lowest, highest = below == 0, below + equal == len(drawn)  # of the truth's ranks below .. below + equal
    inside = 1 - (lowest.astype(float) + highest) / (equal + 1)
    counted = equal < len(drawn)
    if hidden is not None:
        counted &= np.broadcast_to(np.asarray(hidden) != 0, counted.shape)
    return float(inside[counted].mean())


def ranked_score(drawn: np.ndarray, truth: np.ndarray) -> float:
    """E|x - truth| - E|x - x'| / 2 of a pixel, of n samples: the continuous ranked probability score, without its bias."""
    ordered, count = np.sort(np.clip(drawn, -1, 1), 0), len(drawn)
    weights = (2 * np.arange(count) - count + 1).reshape(-1, *[1] * truth.ndim)
    within = 2 * (weights * ordered).sum(0) / (count * (count - 1))  # the mean of |x - x'|
    return float((np.abs(ordered - truth).mean(0) - within / 2).mean())
