"""docs/results.md: what guidance does to Fashion-MNIST, of a trained run and its sweeps.

    python -m benchmarks.results runs/fashion_mnist

The sweeps are those that the page tells how to make; what is not there is left out. Draws the pictures, asks the noisy
classifier at every noise level, and puts the tables into the page with `--page`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro

from benchmarks.measured import fill_page, table
from guided_jax import data, denoiser, forward, parallel, sampler, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sweep import command as sweeping
from guided_jax.app.sweep import curves as sweep_curves
from guided_jax.app.sweep import page as sweep_page
from guided_jax.metrics import evaluation, sets
from guided_jax.storage import images
from guided_jax.storage.files import replacing

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = Path(__file__).parent.parent / "docs"
SWEEPS = {
    "free-fast": "classifier-free, dpm++ 15",
    "classifier-fast": "classifier, dpm++ 15",
    "free-250": "classifier-free, ddpm 250",
    "classifier-250": "classifier, ddpm 250",
}
SHOWN = (0.0, 1.0, 2.0, 4.0, 8.0)  # scales whose pictures are shown
LEVELS = 20  # noise levels that the classifier is asked at, and the first
AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class Results:
    """Pictures, curves and tables of a run of Fashion-MNIST."""

    run: tyro.conf.Positional[Path] = Path("runs/fashion_mnist")
    held_out: int = 5000
    """How many held-out pictures the noisy classifier is asked about at each level."""
    page: bool = False
    """Put them into docs/results.md and docs/images."""


def sweeps_of(run: Path) -> dict[str, dict[str, Any]]:
    """sweep.json of those that are there and whole."""
    paths = {name: run / "sweeps" / name / "sweep.json" for name in SWEEPS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    return {name: sweep for name, sweep in found.items() if "rows" in sweep}


def curves(found: Mapping[str, dict[str, Any]]) -> Any:
    """A figure: each number against the scale, a line a sweep, real pictures dashed."""
    names = ("accuracy", "fd", "precision", "recall", "density", "coverage")
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    for panel, name in zip(axes.flat, names, strict=True):
        for i, (each, sweep) in enumerate(found.items()):
            means = sweep_curves.averages(sweep)
            y = [means[scale][name] for scale in means]
            style = {"marker": "o", "markersize": 3, "capsize": 2, "color": f"C{i % 2}"}
            line = "-" if each.endswith("fast") else ":"
            panel.errorbar(
                list(means),
                [spread.mean for spread in y],
                yerr=sweep_curves.deviations(y),
                linestyle=line,
                label=SWEEPS[each],
                **style,
            )
        others = sweep_curves.real(next(iter(found.values())))
        if name in others:
            panel.axhline(others[name].mean, color="0.4", linestyle="--", linewidth=1, label="real")
        panel.set(title=evaluation.title(name), xlabel="scale")
        panel.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    return figure


def pictures(run: Path, name: str) -> np.ndarray | None:
    """Two of each class at each scale that is shown, of the same noise, a block of rows a scale; None without any."""
    blocks = []
    for scale in SHOWN:
        path = run / "sweeps" / name / f"scale-{scale:g}" / "seed-0" / "samples.npz"
        found = sets.from_file(path) if path.is_file() else None
        if found is not None:
            blocks.append(sweeping.grid_of(found, rows=2))
    return np.concatenate(blocks) if blocks else None


def by_level(run: runs.Run, params: Any, source: data.Source, count: int) -> dict[int, float]:
    """t -> how often the noisy classifier is right about held-out pictures with the noise of step t."""
    batch = source.read(np.random.default_rng(0).permutation(len(source))[:count])
    x_0 = images.from_uint8(batch["image"])

    @jax.jit
    def right(params: Any, keys: Any, x_0: Any, labels: Any, position: Any) -> Any:
        level = schedule.at(run.model.levels, position)
        eps = jax.vmap(lambda key, x: jax.random.normal(key, x.shape))(keys, x_0)
        x_t = jax.vmap(forward.diffuse, (0, 0, None))(x_0, eps, level)
        logits = run.networks.classifier.apply(params, x_t, jnp.full(len(x_t), denoiser.network_time(level)))
        return logits.argmax(-1) == labels

    keys, found = sampler.keys(jax.random.key(0), np.arange(len(x_0))), {}
    last = len(run.model.levels.t) - 1
    for position in (1, *(round(last * i / LEVELS) for i in range(1, LEVELS + 1))):
        parts = [slice(i, i + AT_ONCE) for i in range(0, len(x_0), AT_ONCE)]
        each = [right(params, keys[part], x_0[part], batch["label"][part], jnp.int32(position)) for part in parts]
        found[position] = float(np.concatenate(each).mean())
    return found


def level_table(found: Mapping[int, float]) -> str:
    """Every other level, the first among them."""
    chosen = list(found)[::2]
    return table(("t", *map(str, chosen)), [("accuracy", *(f"{found[t]:.3f}" for t in chosen))])


def level_curve(found: Mapping[int, float], chance: float) -> Any:
    """A figure of the classifier's accuracy."""
    figure, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    axes.plot(list(found), list(found.values()), marker="o", markersize=3)
    axes.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    axes.set(xlabel="t", title="accuracy of the noisy classifier", ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure


def save(figure: Any, name: str) -> None:
    """Into docs/images."""
    with replacing(DOCS / "images" / name) as file:
        figure.savefig(file, format="png", dpi=110)


def main(args: Any) -> None:
    """Prints the tables; with --page everything goes into the documents."""
    options = cli.parse(Results, "python -m benchmarks.results", args, description=__doc__ or "")
    parallel.use_cpu_devices()
    run, found = runs.load(options.run), sweeps_of(options.run)
    tables = {name: sweep_page.text(sweep) for name, sweep in found.items()}
    source = run.experiment.data.make(held_out=True)
    levels = by_level(run, runs.params(options.run, "classifier"), source, options.held_out)
    tables["levels"] = level_table(levels)
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if not options.page:
        return
    if found:
        save(curves(found), "results-curves.png")
    save(level_curve(levels, 1 / run.facts.num_classes), "results-levels.png")
    for name in SWEEPS:
        grid = pictures(options.run, name)
        if grid is not None:
            images.save_png(DOCS / "images" / f"results-{name}.png", grid)
    fill_page(DOCS / "results.md", tables)


if __name__ == "__main__":
    cli.script(main)
