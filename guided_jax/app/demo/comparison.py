"""The comparison of the demo: guided pictures at several scales, a judge that guided nothing, a table and a picture.

The judge is a support vector machine on clean pictures. The distance is the Fréchet distance of the pixels (0 to 16) to
those of the held-out data.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import data, metrics, parallel, progress
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.sample import draw
from guided_jax.app.sample.request import Method
from guided_jax.storage import images

KINDS = ("classifier", "classifier-free")
Samples = dict[tuple[str, float], np.ndarray]  # (guidance, scale) -> uint8 pictures


def judge(source: data.Source) -> Any:
    """Return a support vector machine fitted to clean pictures (scikit-learn's, by its `predict` and `score`)."""
    from sklearn.svm import SVC

    return SVC(gamma=0.001).fit(pixels(everything(source)["image"]), everything(source)["label"])


def everything(source: data.Source) -> data.Batch:
    """Return all examples of a split."""
    return source.read(np.arange(len(source)))


def pixels(images: np.ndarray) -> np.ndarray:
    """Return uint8 pictures (n, height, width, channels) as rows (n, d) in scikit-learn's units, 0 to 16."""
    return images.reshape(len(images), -1) / 255 * 16


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance between two sets of uint8 pictures, in squared units of `pixels`."""
    return metrics.frechet_distance(*metrics.moments(pixels(one)), *metrics.moments(pixels(other)))


def compare(
    count: int, scales: Sequence[float], steps: str, run: runs.Run, source: data.Source, held_out: data.Source
) -> tuple[list[dict[str, Any]], Samples]:
    """Draw and judge `count` pictures for each guidance and scale; return a row for each, and the pictures."""
    svm, real = judge(source), everything(held_out)["image"]
    params = {part: run.params(part) for part in ("diffusion", "classifier")}
    devices, indices = parallel.choose_devices(count), np.arange(count)
    labels, rows, samples = indices % run.facts.num_classes, [], {}
    with progress.bar(len(KINDS) * len(scales), "sampling", "scale") as bar:
        for kind in KINDS:
            method = Method(guidance=kind, sampler="ddim", steps=steps)
            sample, placed = draw.make_sampler(run, method, True, devices), draw.place(run, method, params, devices)
            for scale in scales:
                drawn = samples[kind, scale] = sample(placed, indices, labels, np.full(count, scale), 0).images
                right = float((svm.predict(pixels(drawn)) == labels).mean())
                rows.append({"guidance": kind, "scale": scale, "accuracy": right, "distance": distance(drawn, real)})
                bar.update()
    return rows, samples


def real_row(count: int, source: data.Source, held_out: data.Source) -> tuple[float, float]:
    """Return the judge's accuracy on held-out pictures, and the distance of `count` training pictures to them.

    As many training pictures as were drawn: the distance of fewer is larger.
    """
    known, real = everything(source)["image"], everything(held_out)["image"]
    skill = float(judge(source).score(pixels(real), everything(held_out)["label"]))
    few = np.random.default_rng(0).permutation(len(known))[:count]
    return skill, distance(known[few], real)


def table(rows: list[dict], skill: float, baseline: float) -> str:
    """Return the rows as text, the row of real pictures last."""
    lines = ["| guidance | scale | accuracy | distance |", "|---|---|---|---|"]
    lines += [
        f"| {row['guidance']} | {row['scale']:g} | {row['accuracy']:.3f} | {row['distance']:.0f} |" for row in rows
    ]
    return "\n".join([*lines, f"| real digits | | {skill:.3f} | {baseline:.0f} |"])


def save_picture(path: Path, samples: Samples, run: runs.Run) -> Path:
    """Save one grid, a row for each guidance and scale, up to twenty pictures each; return its path."""
    rows = [pictures[:20] for pictures in samples.values()]
    names = [f"{kind} {scale:g}" for kind, scale in samples]
    zoom = facts.zoom(run.facts) // 2 + 1
    images.save_png(path, images.grid(np.concatenate(rows), columns=len(rows[0]), scale=zoom, labels=names))
    return path
