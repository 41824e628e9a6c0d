"""The comparison of the demo: guided pictures at several scales, a judge that guided nothing, a table and a picture.

The judge is a support vector machine on clean pictures. The distance is the Fréchet distance of the pixels (0 to 16) to
those of the held-out data.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import data, metrics, parallel, progress
from guided_jax.app import facts, settings
from guided_jax.app import run as runs
from guided_jax.app.sample import draw, samplers
from guided_jax.app.sample.request import Method
from guided_jax.storage import images

KINDS = ("classifier", "classifier-free")
BATCH_SIZE = 256  # pictures at a time
Samples = dict[tuple[str, float], np.ndarray]  # (guidance, scale) -> uint8 pictures


def check(experiment: settings.Experiment, steps: str) -> None:
    """Raise ValueError for an experiment that cannot be compared with both guidances, or for steps it does not have."""
    trained = {part: getattr(experiment, part).num_steps for part in runs.PARTS}
    missing = [part for part, num_steps in trained.items() if not num_steps]
    if missing:
        raise ValueError(
            f"the demo needs a diffusion model and a classifier, and this experiment trains no {missing[0]}"
        )
    if not experiment.diffusion.null_label:
        raise ValueError("the demo guides without a classifier too, which needs an experiment with label dropout")
    if experiment.diffusion.low_res or not experiment.data.labelled:
        raise ValueError("the demo draws classes from noise; give an experiment with labels that is no upsampler")
    samplers.levels_of(method_of(KINDS[0], steps), experiment.schedule.make())


def method_of(kind: str, steps: str) -> Method:
    """Return how the pictures of a guidance are drawn."""
    return Method(guidance=kind, sampler="ddim", steps=steps)


def fit_judge(known: data.Batch) -> Any:
    """Return a support vector machine fitted to clean pictures (scikit-learn's, by its `predict` and `score`)."""
    from sklearn.svm import SVC

    return SVC(gamma=0.001).fit(pixels(known["image"]), known["label"])


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
    count: int, scales: Sequence[float], steps: str, run: runs.Run, judge: Any, real: np.ndarray
) -> tuple[list[dict[str, Any]], Samples]:
    """Draw and judge `count` pictures for each guidance and scale; return a row for each, and the pictures.

    judge: of `fit_judge`. real: the pictures that distances are measured to. Raises ValueError when samples are not finite.
    """
    labels, rows, samples = np.arange(count) % run.facts.num_classes, [], {}
    devices = parallel.choose_devices(BATCH_SIZE)
    chunk = parallel.chunk_size(count, BATCH_SIZE, devices)
    params = {part: run.params(part) for part in runs.PARTS}
    placed = draw.place(run, params, devices)
    with progress.bar(len(KINDS) * len(scales), "sampling", "scale") as bar:
        for kind in KINDS:
            sample = draw.make_sampler(run, method_of(kind, steps), True, devices)
            for scale in scales:
                drawn = samples[kind, scale] = draw_labels(sample, placed, labels, scale, chunk)
                right = float((judge.predict(pixels(drawn)) == labels).mean())
                rows.append({"guidance": kind, "scale": scale, "accuracy": right, "distance": distance(drawn, real)})
                bar.update()
    return rows, samples


def draw_labels(
    sample: Callable[..., draw.Drawn], params: Any, labels: np.ndarray, scale: float, chunk: int, seed: int = 0
) -> np.ndarray:
    """Return a picture of each label, drawn `chunk` at a time; ValueError when some are not finite."""

    def rows(indices: np.ndarray) -> draw.Drawn:
        return sample(params, indices, labels[indices], np.full(len(indices), scale), seed)

    drawn = list(parallel.map_in_chunks(rows, len(labels), chunk))
    wrong = sum(int((~each.finite).sum()) for each in drawn)
    if wrong:
        raise ValueError(f"{wrong} samples at scale {scale:g} are not finite; try lower --scales or more --steps")
    return np.concatenate([each.images for each in drawn])


def real_row(count: int, judge: Any, known: data.Batch, real: data.Batch) -> tuple[float, float]:
    """Return the judge's accuracy on held-out pictures, and the distance of `count` training pictures to them.

    As many training pictures as were drawn: the distance of fewer is larger.
    """
    few = np.random.default_rng(0).permutation(len(known["image"]))[:count]
    skill = float(judge.score(pixels(real["image"]), real["label"]))
    return skill, distance(known["image"][few], real["image"])


def table(rows: list[dict[str, Any]], skill: float, baseline: float) -> str:
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
