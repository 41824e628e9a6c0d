"""docs/howto/emoji.md: what guidance does to emoji whose style and concept were not trained on together.

    guided-jax train emoji
    guided-jax train emoji --seed 1 --diffusion.num-steps 0 --classifier.network.model-channels 64 --out runs/emoji_judge
    python -m benchmarks.emoji runs/emoji --judge runs/emoji_judge

The judge is a CLIP of another seed and size that guides nothing: it retrieves the caption of a picture among all captions
of the data, and gives the features of the Fréchet distance, precision and recall. Each guidance, scale and seed has a file
of its own in RUN/benchmark; one that is there is not made again. `--page` puts tables, curves and pictures into the page.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro

from benchmarks.sampler_pages import fill, table
from benchmarks.tricks import spread
from guided_jax import forward, metrics, parallel, schedule
from guided_jax.app import cli, networks, texts
from guided_jax.app import run as runs
from guided_jax.app.demo import comparison, prompt_grid
from guided_jax.app.sample import draw, prompts
from guided_jax.app.sample.prompt_files import Row
from guided_jax.app.sample.request import Method
from guided_jax.app.sample.text_options import Text
from guided_jax.metrics.alignment import retrieval
from guided_jax.storage import images
from guided_jax.storage.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "howto" / "emoji.md"
LEVELS = (1, 100, 200, 300, 400, 500, 600, 700, 800)  # at which the CLIP that guides is asked
BESIDE = 2.0  # the scale of classifier-free guidance beside the others
# Name -> the request, and whether it goes through the scales.
GUIDANCES: dict[str, tuple[dict[str, Any], bool]] = {
    "none": ({"guidance": "none"}, False),
    "classifier-free": ({"guidance": "classifier-free"}, True),
    "CLIP": ({"guidance": "classifier"}, True),
    "TFG": ({"guidance": "training-free"}, True),
    "both, CLIP": ({"guidance": "classifier", "label_scale": BESIDE}, True),
    "both, TFG": ({"guidance": "training-free", "label_scale": BESIDE}, True),
}
NUMBERS = {"top1": "top-1", "top5": "top-5", "fd": "distance", "precision": "precision", "recall": "recall"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what guidance does to held-out emoji."""

    run: tyro.conf.Positional[Path] = Path("runs/emoji")
    judge: Path = Path("runs/emoji_judge")
    """The run whose CLIP judges."""
    guidances: tuple[str, ...] = tuple(GUIDANCES)
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    pairs: int = 256
    """How many held-out pairs are drawn, each once."""
    steps: str = "15"
    """Of DPM-Solver++; training-free guidance takes as many of DDIM."""
    page: bool = False
    """Put tables, curves and pictures into docs/howto/emoji.md."""


class Judge:
    """The embeddings of a judge's CLIP: of pictures as they are, and of all captions of the data."""

    def __init__(self, place: Path, captions: Sequence[str]):
        run = runs.load(place)
        own = networks.texts_of(run.experiment, run.facts)
        self.clip, self.params = run.networks.classifier, run.params("classifier")
        self.levels, self.time = run.model.levels, run.model.time
        first = schedule.at(run.model.levels, 1)
        embed = jax.jit(lambda params, x: self.clip.apply(params, x, run.model.time(first), method="encode_image"))
        self.of_pictures: Callable[[np.ndarray], np.ndarray] = lambda pictures: np.concatenate(
            [embed(self.params, images.from_uint8(part)) for part in np.array_split(pictures, -(-len(pictures) // 256))]
        )
        read = jax.jit(
            lambda params, given: self.clip.apply(params, *texts.states_of(own, given), method="encode_text")
        )
        parts = np.array_split(texts.encode(own, captions), -(-len(captions) // 256))
        self.texts = np.concatenate([read(self.params, jnp.asarray(part, jnp.float32)) for part in parts])


def by_level(judge: Judge, pictures: np.ndarray, labels: np.ndarray) -> str:
    """Return the table of how often a CLIP finds the caption of a noisy picture among all captions, by noise level."""

    def embed(key: Any, picture: Any, position: Any) -> Any:
        level = schedule.at(judge.levels, position)
        x_t = forward.diffuse(picture, jax.random.normal(key, picture.shape), level)
        return judge.clip.apply(judge.params, x_t, judge.time(level), method="encode_image")

    real, devices = images.from_uint8(pictures), parallel.choose_devices(256)
    given = real, judge.texts, labels, LEVELS, jax.random.key(0), devices, 256
    found = metrics.retrieval_by_level(embed, *given)
    tops = [
        (f"top-{k}", *(f"{found[at][k].score.mean:.3f} ± {found[at][k].score.error:.3f}" for at in LEVELS))
        for k in (1, 5)
    ]
    return table(("t", *map(str, LEVELS)), tops)


def look(judge: Judge, pictures: np.ndarray, labels: np.ndarray, reference: Any) -> dict[str, float]:
    """Return what the judge says of pictures. labels: of their captions. reference: features of real pictures."""
    features = judge.of_pictures(pictures)
    found = retrieval(features, judge.texts, labels, (1, 5))
    distance = metrics.frechet_distance(*metrics.moments(features), *metrics.moments(reference))
    precision, recall = metrics.precision_recall(features, reference)
    top = {f"top{k}": each.score.mean for k, each in found.items()}
    return {**top, "fd": float(distance), "precision": float(precision), "recall": float(recall)}


def measure(options: Options, run: runs.Run, name: str, captions: Sequence[str]) -> Callable[[float, int], np.ndarray]:
    """Return (scale, seed) -> a picture of each caption, by one program."""
    sampler = "ddim" if "TFG" in name else "dpm++"
    method = Method(**GUIDANCES[name][0], sampler=sampler, steps=options.steps)
    told = prompts.with_prompts(run, [Row(text) for text in captions], Text())
    devices = parallel.choose_devices(comparison.BATCH_SIZE)
    sample, chunk = draw.make_sampler(told, method, True, devices), parallel.chunk_size(len(captions), 64, devices)
    placed = draw.place(told, {part: told.params(part) for part in runs.PARTS}, devices)
    labels = np.arange(len(captions))
    return lambda scale, seed: comparison.draw_labels(sample, placed, labels, scale, chunk, seed)


def rows_of(options: Options, name: str) -> list[tuple[float, int]]:
    """Return the scales and seeds of a guidance."""
    scales = options.scales if GUIDANCES[name][1] else (1.0,)
    return [(scale, seed) for scale in scales for seed in options.seeds]


def place_of(options: Options, name: str, scale: float, seed: int) -> Path:
    """Return the file of one guidance, scale and seed; its name has what else determines its numbers."""
    trained = [runs.step_of(options.run, part, "last") for part in runs.PARTS]
    trained.append(runs.step_of(options.judge, "classifier", "last"))
    asked = [GUIDANCES[name][0], options.pairs, options.steps, str(options.judge), trained]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:6]
    return options.run / "benchmark" / f"{name.replace(', ', '-')}-{scale:g}-{seed}-{digest}.json"


def body(options: Options, found: Mapping[tuple[str, float, int], dict[str, float]]) -> list[list[str]]:
    """Return the rows of the table: a guidance and scale each, over the seeds."""
    rows = []
    for name, scale in dict.fromkeys((name, scale) for name, scale, _ in found):
        mine = [each for (own, at, _), each in found.items() if (own, at) == (name, scale)]
        shown = f"{scale:g}" if GUIDANCES[name][1] else ""
        rows.append([name, shown, *(spread([each[number] for each in mine]) for number in NUMBERS)])
    return rows


def curves(found: Mapping[tuple[str, float, int], dict[str, float]], real: Mapping[str, float]) -> Any:
    """Return a figure: each number against the scale, a line a guidance, real pictures dashed."""
    figure, axes = pyplot.subplots(1, len(NUMBERS), figsize=(3.2 * len(NUMBERS), 3.2), layout="constrained")
    for panel, number in zip(axes, NUMBERS, strict=True):
        for name in dict.fromkeys(name for name, _, _ in found if GUIDANCES[name][1]):
            scales = sorted({scale for own, scale, _ in found if own == name})
            each = [[row[number] for (own, at, _), row in found.items() if (own, at) == (name, s)] for s in scales]
            means, deviations = [np.mean(row) for row in each], [np.std(row, ddof=1) if row[1:] else 0 for row in each]
            panel.errorbar(scales, means, yerr=deviations, marker="o", markersize=3, capsize=2, label=name)
        panel.axhline(real[number], color="0.4", linestyle="--", linewidth=1, label="real")
        panel.set(title=NUMBERS[number], xlabel="scale", xscale="log")
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize="x-small")
    return figure


def main(args: Sequence[str]) -> None:
    """Measure what is not there yet, and print the table; with --page put all of it into the page."""
    options = cli.parse(Options, "python -m benchmarks.emoji", args, description=__doc__ or "")
    parallel.use_cpu_devices()
    if unknown := [name for name in options.guidances if name not in GUIDANCES]:
        raise ValueError(f"there is no guidance {unknown[0]!r}; there is {', '.join(GUIDANCES)}")
    if options.judge.resolve() == options.run.resolve():
        raise ValueError(f"the CLIP of {options.run} guides, and favours what it guided; train another for --judge")
    run = runs.load(options.run)
    plain = dataclasses.replace(run.experiment.data, text="none")
    known, held = (plain.make(held_out) for held_out in (False, True))
    names = tuple(dict.fromkeys((*(known.captions or ()), *(held.captions or ()))))
    judge, number = Judge(options.judge, names), {name: i for i, name in enumerate(names)}
    chosen = np.random.default_rng(0).permutation(len(held))[: options.pairs]
    captions = [(held.captions or ())[row] for row in chosen]
    labels, pictures = np.array([number[caption] for caption in captions]), held.read(np.arange(len(held)))["image"]
    reference = judge.of_pictures(np.delete(pictures, chosen, axis=0))
    real, found = look(judge, pictures[chosen], labels, reference), {}
    for name in options.guidances:
        drawer = None
        for scale, seed in rows_of(options, name):
            place = place_of(options, name, scale, seed)
            if not place.is_file():
                drawer = drawer or measure(options, run, name, captions)
                with replacing(place) as file:
                    file.write(json.dumps(look(judge, drawer(scale, seed), labels, reference)).encode())
            found[name, scale, seed] = json.loads(place.read_text())
            print(f"{name}, scale {scale:g}, seed {seed}: {found[name, scale, seed]}", flush=True)
    rows = [*body(options, found), ["real pictures", "", *(f"{real[each]:.4f}" for each in NUMBERS)]]
    text = table(("guidance", "scale", *NUMBERS.values()), rows)
    levels = by_level(Judge(options.run, names), pictures, np.array([number[each] for each in held.captions or ()]))
    print(f"\n{text}\n\n{levels}")
    if options.page:
        _write_page(run, {"emoji": text, "emoji, levels": levels}, curves(found, real))


def _write_page(run: runs.Run, tables: Mapping[str, str], figure: Any) -> None:
    from guided_jax.app.demo.emoji import PROMPTS, EmojiDemo

    usual = EmojiDemo()
    drawn = prompt_grid.draw_grid(run, PROMPTS, usual.scales, usual.steps, usual.seed)
    prompt_grid.save(DOCS / "images" / "emoji.png", drawn, PROMPTS, usual.scales)
    with replacing(DOCS / "images" / "emoji-curves.png") as file:
        figure.savefig(file, format="png", dpi=110)
    with replacing(PAGE) as file:
        file.write(fill(PAGE.read_text(), tables).encode())


if __name__ == "__main__":
    cli.script(main)
