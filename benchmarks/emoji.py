"""docs/howto/emoji.md: what guidance does to emoji whose style and concept were not trained on together.

    guided-jax train emoji
    guided-jax train emoji --seed 1 --diffusion.num-steps 0 --classifier.network.model-channels 64 --out runs/emoji_judge
    guided-jax train emoji --data.name emoji:32/openmoji --diffusion.init-from runs/emoji --diffusion.num-steps 500 \\
        --classifier.num-steps 0 --out runs/openmoji
    python -m benchmarks.emoji runs/emoji --judge runs/emoji_judge --tuned runs/openmoji

The judge is a CLIP of another seed and size that guides nothing: it retrieves the caption of a picture among all captions
of the data, and gives the features of the Fréchet distance, precision and recall. Each guidance, scale and seed has a file
of its own in RUN/benchmark; one that is there is not made again. `--tuned` adds what guidance does to a model that was
fine-tuned on one style: from the base model to the tuned one, and beyond. `--page` puts tables, curves and pictures into
the page.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import tyro

from benchmarks.emoji_judge import NUMBERS, Judge, captions_of, check
from benchmarks.measured import fill_page, table
from benchmarks.tricks import spread
from guided_jax import parallel
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.demo import comparison, prompt_grid
from guided_jax.app.demo.emoji import PROMPTS, EmojiDemo
from guided_jax.app.sample import draw, prompts
from guided_jax.app.sample.prompt_files import Row
from guided_jax.app.sample.request import Method
from guided_jax.app.sample.text_options import Text
from guided_jax.storage import images
from guided_jax.storage.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "howto" / "emoji.md"
BESIDE = 2.0  # the scale of classifier-free guidance beside the others


class Guidance(NamedTuple):
    """What is asked for, and whether it goes through the scales."""

    asked: dict[str, Any]
    scaled: bool = True


GUIDANCES = {
    "none": Guidance({"guidance": "none"}, scaled=False),
    "classifier-free": Guidance({"guidance": "classifier-free"}),
    "CLIP": Guidance({"guidance": "classifier"}),
    "CLIP, conditional": Guidance({"guidance": "classifier", "label_scale": 1.0}),
    "TFG": Guidance({"guidance": "training-free"}),
    "both, CLIP": Guidance({"guidance": "classifier", "label_scale": BESIDE}),
    "both, TFG": Guidance({"guidance": "training-free", "label_scale": BESIDE}),
}
# Of a model that was fine-tuned on one style. At scale 0 the first is the base model with the prompt, and the second
# without; at scale 1 all three are the tuned model.
TUNED = {
    "from the base": Guidance({"guidance": "autoguidance"}),
    "domain": Guidance({"guidance": "domain"}),
    "classifier-free": Guidance({"guidance": "classifier-free"}),
}
Found = dict[tuple[str, float, int], dict[str, float]]  # (guidance, scale, seed) -> what the judge says


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what guidance does to held-out emoji."""

    run: tyro.conf.Positional[Path] = Path("runs/emoji")
    judge: Path = Path("runs/emoji_judge")
    """The run whose CLIP judges."""
    tuned: Path | None = None
    """A run of one style, fine-tuned from the first."""
    guidances: tuple[str, ...] = tuple(GUIDANCES)
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    tuned_scales: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    pairs: int = 256
    """How many held-out pairs are drawn, each once."""
    steps: str = "15"
    """Of DPM-Solver++; training-free guidance takes as many of DDIM."""
    page: bool = False
    """Put tables, curves and pictures into docs/howto/emoji.md."""


class Pairs(NamedTuple):
    """The held-out pairs of a run's data that are drawn, and the judge's features of its other held-out pictures."""

    captions: list[str]
    pictures: np.ndarray
    reference: np.ndarray


def choose_pairs(run: runs.Run, judge: Judge, count: int) -> Pairs:
    """Return `count` held-out pairs, or half of them where there are fewer; the same for every run of this data."""
    held = dataclasses.replace(run.experiment.data, text="none").make(held_out=True)
    order, count = np.random.default_rng(0).permutation(len(held)), min(count, len(held) // 2)
    pictures, captions = held.read(order)["image"], [(held.captions or ())[row] for row in order]
    return Pairs(captions[:count], pictures[:count], judge.features(pictures[count:]))


def measure(run: runs.Run, name: str, asked: dict[str, Any], steps: str, captions: Sequence[str]) -> Callable[..., Any]:
    """Return (scale, seed) -> a picture of each caption, by one program."""
    method = Method(**asked, sampler="ddim" if "TFG" in name else "dpm++", steps=steps)
    rows = [Row(text) for text in captions]
    told, params = prompts.with_prompts(run, rows, Text()), {"diffusion": run.params("diffusion")}
    if method.guidance in ("classifier", "training-free"):
        params["classifier"] = run.params("classifier")
    if run.bad is not None:
        told = told._replace(bad=prompts.with_prompts(run.bad, rows, Text()))
        params["bad"] = run.bad.params("diffusion")
    devices, labels = parallel.choose_devices(comparison.BATCH_SIZE), np.arange(len(captions))
    sample, chunk = draw.make_sampler(told, method, True, devices), parallel.chunk_size(len(captions), 64, devices)
    placed = draw.place(told, params, devices)
    return lambda scale, seed: comparison.draw_labels(sample, placed, labels, scale, chunk, seed)


def measure_all(
    options: Options,
    folder: Path,
    run: runs.Run,
    guidances: Mapping[str, Guidance],
    scales: Sequence[float],
    judge: Judge,
    pairs: Pairs,
) -> Found:
    """Return what the judge says of every guidance, scale and seed; it is drawn where its file is not there."""
    found: Found = {}
    for name, guidance in guidances.items():
        drawer = None
        for scale in scales if guidance.scaled else (1.0,):
            for seed in options.seeds:
                place = place_of(options, folder / "benchmark", run, name, guidance.asked, scale, seed)
                if not place.is_file():
                    drawer = drawer or measure(run, name, guidance.asked, options.steps, pairs.captions)
                    seen = judge.look(pairs.captions, drawer(scale, seed), pairs.reference)
                    with replacing(place) as file:
                        file.write(json.dumps(seen).encode())
                found[name, scale, seed] = json.loads(place.read_text())
                print(f"{name}, scale {scale:g}, seed {seed}: {found[name, scale, seed]}", flush=True)
    return found


def place_of(options: Options, folder: Path, run: runs.Run, name: str, asked: Any, scale: float, seed: int) -> Path:
    """Return the file of one guidance, scale and seed; its name has what else determines its numbers."""
    trained = [each.trained("last") for each in (run, run.bad) if each is not None]
    told = [asked, options.pairs, options.steps, str(options.judge), runs.step_of(options.judge, "classifier", "last")]
    digest = hashlib.sha256(json.dumps([*told, *trained], default=str).encode()).hexdigest()[:6]
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}-{scale:g}-{seed}-{digest}.json"


def tabulate(found: Found, guidances: Mapping[str, Guidance], real: Mapping[str, float]) -> str:
    """Return a row for each guidance and scale, over the seeds, and one of the real pictures."""
    rows = []
    for name, scale in dict.fromkeys((name, scale) for name, scale, _ in found):
        mine = [each for (own, at, _), each in found.items() if (own, at) == (name, scale)]
        shown = f"{scale:g}" if guidances[name].scaled else ""
        rows.append([name, shown, *(spread([each[number] for each in mine]) for number in NUMBERS)])
    return table(
        ("guidance", "scale", *NUMBERS.values()),
        [*rows, ["real pictures", "", *(f"{real[each]:.4f}" for each in NUMBERS)]],
    )


def plot(found: Found, guidances: Mapping[str, Guidance], real: Mapping[str, float]) -> Any:
    """Return a figure: each number against the scale, a line a guidance, real pictures dashed."""
    figure, axes = pyplot.subplots(1, len(NUMBERS), figsize=(3.2 * len(NUMBERS), 3.2), layout="constrained")
    for panel, number in zip(axes, NUMBERS, strict=True):
        for name in dict.fromkeys(name for name, _, _ in found if guidances[name].scaled):
            scales = sorted({scale for own, scale, _ in found if own == name})
            each = [[row[number] for (own, at, _), row in found.items() if (own, at) == (name, s)] for s in scales]
            means, deviations = [np.mean(row) for row in each], [np.std(row, ddof=1) if row[1:] else 0 for row in each]
            panel.errorbar(scales, means, yerr=deviations, marker="o", markersize=3, capsize=2, label=name)
        panel.axhline(real[number], color="0.4", linestyle="--", linewidth=1, label="real")
        panel.set(title=NUMBERS[number], xlabel="scale", xscale="symlog" if min(s for _, s, _ in found) == 0 else "log")
        panel.set_xticks(shown := sorted({scale for _, scale, _ in found}), [f"{scale:g}" for scale in shown])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize="x-small")
    return figure


def main(args: Sequence[str]) -> None:
    """Measure what is not there yet, and print the tables; with --page put all of it into the page."""
    options = cli.parse(Options, "python -m benchmarks.emoji", args, description=__doc__ or "")
    parallel.use_cpu_devices()
    if unknown := [name for name in options.guidances if name not in GUIDANCES]:
        raise ValueError(f"there is no guidance {unknown[0]!r}; there is {', '.join(GUIDANCES)}")
    check(options.judge, options.run)
    run = runs.load(options.run)
    judge = Judge(options.judge, captions_of(run))
    first = pairs = choose_pairs(run, judge, options.pairs)
    chosen = {name: GUIDANCES[name] for name in options.guidances}
    found, real = measure_all(options, options.run, run, chosen, options.scales, judge, pairs), judge.look(*pairs)
    held = dataclasses.replace(run.experiment.data, text="none").make(held_out=True)
    everything = held.read(np.arange(len(held)))["image"]
    tables = {
        "emoji": tabulate(found, chosen, real),
        "emoji, levels": Judge(options.run, judge.captions).by_level(everything, held.captions or ()),
    }
    figures = {"emoji-curves": plot(found, chosen, real)}
    if options.tuned is not None:
        tuned = runs.load(options.tuned)._replace(bad=run)
        pairs = choose_pairs(tuned, judge, options.pairs)
        found = measure_all(options, options.tuned, tuned, TUNED, options.tuned_scales, judge, pairs)
        real = judge.look(*pairs)
        tables["emoji, tuned"], figures["emoji-tuned"] = tabulate(found, TUNED, real), plot(found, TUNED, real)
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if options.page:
        write_page(run, tables, figures, first)


def beside_real(run: runs.Run, pairs: Pairs, count: int = 48, columns: int = 16) -> np.ndarray:
    """Return rows of the first real pictures of the pairs, and below each row what is drawn of their captions."""
    captions = pairs.captions[:count]
    drawn = measure(run, "classifier-free", {"guidance": "classifier-free"}, EmojiDemo().steps, captions)(3.0, 0)
    both = [part[i : i + columns] for i in range(0, count, columns) for part in (pairs.pictures, drawn)]
    return images.grid(np.concatenate(both), columns=columns, scale=2)


def write_page(run: runs.Run, tables: Mapping[str, str], figures: Mapping[str, Any], pairs: Pairs) -> None:
    """Put the tables into the page, and draw its pictures: curves, prompts against scales, pairs beside the real ones."""
    usual = EmojiDemo()
    images.save_png(DOCS / "images" / "emoji-pairs.png", beside_real(run, pairs))
    drawn = prompt_grid.draw_grid(run, PROMPTS, usual.scales, usual.steps, usual.seed)
    prompt_grid.save(DOCS / "images" / "emoji.png", drawn, PROMPTS, usual.scales)
    for name, figure in figures.items():
        with replacing(DOCS / "images" / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=110)
    fill_page(PAGE, dict(tables))


if __name__ == "__main__":
    cli.script(main)
