"""The pictures of docs/posteriors.md: what each method draws of one problem, beside exact draws."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image

from benchmarks.posteriors import levy, mixtures
from benchmarks.posteriors.methods import BEST

matplotlib.use("Agg")
from matplotlib import pyplot

EXACT, OURS, SEEN = "#5b8db8", "#d9730d", "#777777"
SEED, MEASURED = 3, 1  # of T1's problem: one measurement, which leaves several modes
PANELS = ("best of 1 + 2 dy", "`reverse.dps`, 0.1", "`guidance.pigdm`, data_std 11.4", mixtures.MMPS, BEST)
WALKERS = (
    "`reverse.dps`, 3 sigma",
    "`reverse.diffpir`",
    "`guidance.pigdm`",
    "`guidance.mmps`, 5 iterations",
    levy.SOLVED,
)
WALK, LAW, OPERATOR = 0, "normal", "half of the places"


def draw(out: Path, quick: bool) -> None:
    """Draw posteriors.png and posteriors-walks.png into the folder; quick: of few samples and steps."""
    of_mixture(out / "posteriors.png", *((100, 20) if quick else (1000, 100)))
    of_walks(out / "posteriors-walks.png", *((2, 4, 10) if quick else (20, 50, levy.STEPS)))


def of_mixture(path: Path, count: int, steps: int) -> None:
    """The first two coordinates of the samples of each method, exact draws behind them."""
    arrays = [jnp.asarray(each, jnp.float32) for each in mixtures.problem(SEED, 8, MEASURED)]
    law = mixtures.exact(SEED, 8, MEASURED)
    exact = law.draw(np.random.default_rng(0), count)
    panels = {"the posterior, exactly": exact}
    for name in PANELS:
        found = mixtures.drawer(mixtures.METHODS[name], 8, steps, count)(jax.random.key(SEED), *arrays)
        panels[name] = np.asarray(found, np.float64)
    figure, axes = pyplot.subplots(2, 3, figsize=(8.4, 6.6), squeeze=False)
    for axis, (name, x) in zip(axes.flat, panels.items(), strict=False):
        axis.scatter(*exact[:, :2].T, s=3, c=EXACT, linewidths=0)
        if x is not exact:
            axis.scatter(*x[:, :2].T, s=3, c=OURS, linewidths=0)
            distance = mixtures.judge(x, law, np.random.default_rng(1))["distance"]
            name = f"{name}\ndistance {distance:.1f}" if distance < 1000 else f"{name}\ndiverges"
        title(axis, name)
        axis.set(xlim=(-22, 22), ylim=(-22, 22), xticks=[], yticks=[])
        axis.set_aspect("equal")
    save(figure, path)


def of_walks(path: Path, count: int, samples: int, steps: int) -> None:
    """One walk, what is seen of it, and the band that holds 0.9 of the draws at each place, exact and of each method.

    count, samples: as they are measured, whose programs are compiled already.
    """
    given = levy.problems(LAW, OPERATOR, count)
    panels = {
        name: levy.draws(method, LAW, given, samples, steps) for name, method in levy.METHODS.items() if name in WALKERS
    }
    band = np.quantile(levy.exact(LAW, OPERATOR, count)[:, WALK], (0.05, 0.95), axis=0)
    places = np.arange(levy.LENGTH)
    seen = given.matrix.argmax(1)
    figure, axes = pyplot.subplots(2, 3, figsize=(10.5, 4.9), squeeze=False, sharex=True, sharey=True)
    for axis, (name, x) in zip(axes.flat, panels.items(), strict=False):
        own = np.quantile(x[:, WALK], (0.05, 0.95), axis=0)
        axis.fill_between(places, *own, color=OURS, alpha=0.45, linewidth=0, label="the method's 0.9 band")
        for edge, label in zip(band, ("the posterior's", None), strict=True):
            axis.plot(places, edge, c=EXACT, lw=1, label=label)
        axis.plot(places, given.truth[WALK], c="black", lw=0.8, label="the truth")
        axis.plot(seen, given.y[WALK], "o", c=SEEN, ms=2.5, label="what is seen")
        title(axis, name)
        axis.set(xticks=[0, 32, 63])
    axes.flat[0].set_ylim(*(band.min() - 1.5, band.max() + 1.5))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].legend(handles, labels, loc="center", frameon=False, fontsize=8)
    save(figure, path)


def title(axis: pyplot.Axes, name: str) -> None:
    """The name of a method above its panel."""
    axis.set_title(name.replace("`", ""), fontsize=8)


def save(figure: pyplot.Figure, path: Path) -> None:
    """Write the picture; a palette keeps the file small."""
    figure.tight_layout(pad=0.5, h_pad=1.5)
    figure.savefig(path, dpi=90, bbox_inches="tight", pad_inches=0.05)
    pyplot.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
