"""The trade of diversity for fidelity on handwritten digits: train, draw at several scales, judge, print the table.

    make demo

or, for other sizes, `guided-jax demo --num-samples 500 --scales 0 1 3`. The judge is a support vector machine
on clean images; it never guided anything. The distance is the Fréchet distance of the pixels (0..16) to the held-out data.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from guided_jax import data, metrics, parallel
from guided_jax.app import cli, facts
from guided_jax.app import run as runs
from guided_jax.app.sample import draw
from guided_jax.app.sample.request import Method
from guided_jax.app.train import command as train
from guided_jax.storage import images
from guided_jax.storage.files import replacing

KINDS = ("classifier", "classifier-free")


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on digits, draw guided ones at several scales, judge them."""

    out: Path = Path("runs/digits")
    num_samples: int = 250
    """Images for each guidance and scale."""
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 5.0)
    steps: str = "50"
    """DDIM steps."""


def judge(source: data.Source) -> Any:
    """A support vector machine on clean images, which the guides never saw."""
    from sklearn.svm import SVC

    return SVC(gamma=0.001).fit(pixels(everything(source)["image"]), everything(source)["label"])


def everything(source: data.Source) -> data.Batch:
    """All examples of a split."""
    return source.read(np.arange(len(source)))


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 pictures as rows of scikit-learn's units, 0 to 16."""
    return images.reshape(len(images), -1) / 255 * 16


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Fréchet distance between two sets of pictures, in squared pixel units."""
    return metrics.frechet_distance(*metrics.moments(pixels(one)), *metrics.moments(pixels(other)))


def compare(options: Demo, run: runs.Run, source: data.Source, held_out: data.Source) -> tuple[list[dict], dict]:
    """A row for each guidance and scale, and the pictures behind it."""
    svm, real = judge(source), everything(held_out)["image"]
    params = {part: runs.params(options.out, part) for part in ("diffusion", "classifier")}
    devices = parallel.choose_devices(options.num_samples)
    indices = np.arange(options.num_samples)
    labels = indices % run.facts.num_classes
    rows, drawn = [], {}
    with tqdm(total=len(KINDS) * len(options.scales), desc="sampling", unit="scale") as bar:
        for kind in KINDS:
            method = Method(guidance=kind, sampler="ddim", steps=options.steps)
            sample = draw.make_sampler(run, method, True, devices)
            placed = draw.place(run, method, params, devices)
            for scale in options.scales:
                drawn[kind, scale] = sample(placed, indices, labels, np.full(len(indices), scale), 0).images
                right = svm.predict(pixels(drawn[kind, scale])) == labels
                gap = distance(drawn[kind, scale], real)
                rows.append({"guidance": kind, "scale": scale, "accuracy": float(right.mean()), "distance": gap})
                bar.update()
    return rows, drawn


def table(rows: list[dict], baseline: float, skill: float) -> str:
    """The rows as text, and last what real digits get: the judge on held-out ones, as many training ones as drawn."""
    lines = ["| guidance | scale | accuracy | distance |", "|---|---|---|---|"]
    lines += [
        f"| {row['guidance']} | {row['scale']:g} | {row['accuracy']:.3f} | {row['distance']:.0f} |" for row in rows
    ]
    return "\n".join([*lines, f"| real digits | | {skill:.3f} | {baseline:.0f} |"])


def picture(options: Demo, drawn: dict, run: runs.Run) -> Path:
    """One grid: a row for each guidance and scale, two columns a digit."""
    rows = np.concatenate([drawn[kind, scale][:20] for kind in KINDS for scale in options.scales])
    names = [f"{kind} {scale:g}" for kind in KINDS for scale in options.scales]
    path = options.out / "demo" / "digits.png"
    images.save_png(path, images.grid(rows, columns=20, scale=facts.zoom(run.facts) // 2 + 1, labels=names))
    return path


def main(args) -> None:
    """Trains (or goes on, or finds it done), draws, judges, prints."""
    options = cli.parse(Demo, "guided-jax demo", args, description=__doc__ or "")
    start = time.monotonic()
    train.main(["digits", "--out", str(options.out)])
    run = runs.load(options.out)
    splits = [data.load("digits", split, run.experiment.data.dir) for split in ("train", "test")]
    rows, drawn = compare(options, run, *splits)
    known, real = (everything(split)["image"] for split in splits)
    skill = float(judge(splits[0]).score(pixels(real), everything(splits[1])["label"]))
    few = np.random.default_rng(0).permutation(len(known))[
        : options.num_samples
    ]  # as many as were drawn: fewer are farther
    text = table(rows, distance(known[few], real), skill)
    path = picture(options, drawn, run)
    with replacing(options.out / "demo" / "table.md") as file:
        file.write(f"{text}\n".encode())
    with replacing(options.out / "demo" / "table.json") as file:
        file.write(json.dumps(rows, indent=2).encode())
    print(f"\n{text}\n\npicture: {path}")
    print(f"the run, for sample.py: {options.out}; everything took {time.monotonic() - start:.0f} s")
