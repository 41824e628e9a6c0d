"""The trade of diversity for fidelity on handwritten digits: train, draw at several scales, judge, print the table.

The judge is a support vector machine on clean pictures that guides nothing. The distance is the Fréchet distance of the
pixels, in 0 to 16, to the held-out pictures. JAX and scikit-learn are imported after the first line is printed.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_jax.app import cli, limits

if TYPE_CHECKING:
    import numpy as np

    from guided_jax import data
    from guided_jax.app import run as runs

KINDS = ("classifier", "classifier-free")
PAGE = """usage: guided-jax demo [OPTIONS]

Train a U-Net and a noisy classifier on 8x8 handwritten digits, draw guided digits at several scales, and judge them with a
support vector machine that guided nothing. No download, no GPU. The same command again goes on, or only draws.

  --out FOLDER         the run, with the table and the picture in FOLDER/demo (default: runs/digits)
  --num-samples N      pictures for each guidance and scale (default: 250)
  --scales S ...       guidance scales (default: 0 1 2 3 5)
  --steps N            DDIM steps (default: 50)
  --experiment E       another experiment with labelled pictures, by name or by file (default: digits)

example: guided-jax demo --num-samples 500 --scales 0 1 3"""
NEXT = """three commands to try next:
  guided-jax sample {out} --guidance classifier-free --scale 3 --labels 3 7 --out {out}/samples
  guided-jax nll {out} --num-samples 100
  guided-jax train digits --out runs/digits-v --diffusion.parameterization v"""


@dataclasses.dataclass(frozen=True)
class Demo:
    """The options of `guided-jax demo`."""

    out: Path = Path("runs/digits")
    """The run that is trained; the table and the picture go into its folder demo."""
    num_samples: int = 250
    """Pictures for each guidance and scale."""
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 5.0)
    """Guidance scales."""
    steps: str = "50"
    """DDIM steps."""
    experiment: str = "digits"
    """The experiment that is trained, by name or by file; its pictures have labels."""


def main(args: Any) -> None:
    """Train, or resume, or find it done; draw, judge, print."""
    start, options = time.monotonic(), cli.parse(Demo, "guided-jax demo", args, description=PAGE)
    limits.check(options)
    announce(options)
    from guided_jax.app import run as runs
    from guided_jax.app.train import command as train
    from guided_jax.storage.files import replacing

    train.main([options.experiment, "--out", str(options.out)])
    run = runs.load(options.out)
    source, held_out = (run.experiment.data.make(held_out=which) for which in (False, True))
    rows, samples = compare(options, run, source, held_out)
    text = table(rows, *real_row(options, source, held_out))
    path = picture(options, samples, run)
    with replacing(options.out / "demo" / "table.md") as file:
        file.write(f"{text}\n".encode())
    with replacing(options.out / "demo" / "table.json") as file:
        file.write(json.dumps(rows, indent=2).encode())
    print(f"\n{text}\n\npicture: {path}\ntime: {time.monotonic() - start:.0f} s\n\n{NEXT.format(out=options.out)}")


def announce(options: Demo) -> None:
    """Print what the demo will do and how long it takes, at once."""
    scales = " ".join(f"{scale:g}" for scale in options.scales)
    print(
        f"guided-jax demo: train a U-Net and a classifier on {options.experiment} into {options.out}, draw "
        f"{options.num_samples} pictures with\nclassifier and with classifier-free guidance at the scales {scales}, and "
        "judge them. With the defaults this takes about\nsix minutes on two CPU cores. Stop it at any time; the same "
        "command goes on.",
        flush=True,
    )


def judge(source: "data.Source") -> Any:
    """Return a support vector machine fitted to clean pictures (scikit-learn's, by its `predict` and `score`)."""
    from sklearn.svm import SVC

    return SVC(gamma=0.001).fit(pixels(everything(source)["image"]), everything(source)["label"])


def everything(source: "data.Source") -> "data.Batch":
    """Return all examples of a split."""
    import numpy as np

    return source.read(np.arange(len(source)))


def pixels(images: "np.ndarray") -> "np.ndarray":
    """Return uint8 pictures (n, height, width, channels) as rows (n, d) in scikit-learn's units, 0 to 16."""
    return images.reshape(len(images), -1) / 255 * 16


def distance(one: "np.ndarray", other: "np.ndarray") -> float:
    """Return the Fréchet distance between two sets of uint8 pictures, in squared units of `pixels`."""
    from guided_jax import metrics

    return metrics.frechet_distance(*metrics.moments(pixels(one)), *metrics.moments(pixels(other)))


def compare(options: Demo, run: "runs.Run", source: "data.Source", held_out: "data.Source") -> tuple[list[dict], dict]:
    """Draw and judge; return a row for each guidance and scale, and {(guidance, scale): pictures}."""
    import numpy as np
    from tqdm import tqdm

    from guided_jax import parallel
    from guided_jax.app import run as runs
    from guided_jax.app.sample import drawing
    from guided_jax.app.sample.request import Method

    svm, real = judge(source), everything(held_out)["image"]
    params = {part: runs.params(options.out, part) for part in ("diffusion", "classifier")}
    devices = parallel.choose_devices(options.num_samples)
    indices = np.arange(options.num_samples)
    labels = indices % run.facts.num_classes
    rows, samples = [], {}
    with tqdm(total=len(KINDS) * len(options.scales), desc="sampling", unit="scale") as bar:
        for kind in KINDS:
            method = Method(guidance=kind, sampler="ddim", steps=options.steps)
            draw = drawing.drawer(run, method, params, True, devices)
            for scale in options.scales:
                images = samples[kind, scale] = draw(indices, labels, np.full(len(indices), scale), 0)
                right = float((svm.predict(pixels(images)) == labels).mean())
                rows.append({"guidance": kind, "scale": scale, "accuracy": right, "distance": distance(images, real)})
                bar.update()
    return rows, samples


def real_row(options: Demo, source: "data.Source", held_out: "data.Source") -> tuple[float, float]:
    """Return what real pictures get: the judge's accuracy on the held-out ones, and the distance of training ones to them.

    As many training pictures as were drawn: the distance of fewer is larger.
    """
    import numpy as np

    images, real = everything(source)["image"], everything(held_out)["image"]
    skill = float(judge(source).score(pixels(real), everything(held_out)["label"]))
    few = np.random.default_rng(0).permutation(len(images))[: options.num_samples]
    return skill, distance(images[few], real)


def table(rows: list[dict], skill: float, baseline: float) -> str:
    """Return the rows as text, the row of real pictures last."""
    lines = ["| guidance | scale | accuracy | distance |", "|---|---|---|---|"]
    lines += [
        f"| {row['guidance']} | {row['scale']:g} | {row['accuracy']:.3f} | {row['distance']:.0f} |" for row in rows
    ]
    return "\n".join([*lines, f"| real digits | | {skill:.3f} | {baseline:.0f} |"])


def picture(options: Demo, samples: dict, run: "runs.Run") -> Path:
    """Save one grid, a row for each guidance and scale, 20 pictures each; return its path."""
    import numpy as np

    from guided_jax.app import run as runs
    from guided_jax.storage import images

    pairs = [(kind, scale) for kind in KINDS for scale in options.scales]
    rows = np.concatenate([samples[pair][:20] for pair in pairs])
    names = [f"{kind} {scale:g}" for kind, scale in pairs]
    path = options.out / "demo" / "digits.png"
    zoom = runs.zoom(run.facts) // 2 + 1
    columns = min(20, options.num_samples)
    images.save_png(path, images.grid(rows, columns=columns, scale=zoom, labels=names))
    return path
