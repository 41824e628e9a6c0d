"""The page of a sweep: its curves, its table and its samples in one HTML file that needs nothing else."""

import base64
import io
import math
import string
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from guided_jax.app.sweep.curves import Found, averages, panels, real, svg
from guided_jax.metrics import MeanStd, evaluation

TEMPLATE = Path(__file__).with_name("sweep.html")
MEANINGS = {
    "accuracy": "how often the judge, a classifier of clean pictures that guided nothing, finds the class asked for.",
    "fd": "of the means and covariances of the features to those of the reference. 0 for equal ones, more for few samples.",
    "sfd": "the same for features that keep their place in the picture.",
    "fd_infinity": "the distance at infinitely many samples, by a line through those of fewer; it may come out below 0.",
    "fd_dinov2": "the Fréchet distance in the features of DINOv2, which agrees with people more than Inception.",
    "kid": "unbiased MMD² with a cubic kernel: 0 on average for independent samples of one law, less for even classes.",
    "precision": "the share of samples within reach of a real picture: how believable they are.",
    "recall": "the share of real pictures within reach of a sample: how much of the data they cover.",
    "density": "in the reach of how many real pictures a sample is, over 5: about 1 for real ones.",
    "coverage": "the share of real pictures that have a sample in their reach.",
    "inception_score": "how sure the classifier is of each sample, and how varied its answers: 1 to the number of classes.",
}
# Whose best value is their greatest or their least.
BEST = {
    **dict.fromkeys(("fd", "fd_dinov2"), min),
    **dict.fromkeys(("accuracy", "precision", "recall", "coverage"), max),
}
ALTERNATIVES = {
    "trade": "Precision against recall, a point for each scale",
    "distance": "Fréchet distance against the scale",
    "dino": "FD-DINOv2 against the scale",
    "accuracy": "Class accuracy against the scale",
    "neighbours": "Density and coverage against the scale",
}


def table(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return (the names of the numbers, a row for each scale and one for real pictures), as text."""
    means, others = averages(found), real(found)
    names = list(next(iter(means.values())))
    rows = [[f"{scale:g}", *(cell(each[name]) for name in names)] for scale, each in means.items()]
    rows += [["real", *(cell(others.get(name)) for name in names)]] if others else []
    return names, rows


def cell(spread: MeanStd | None) -> str:
    """Return mean ± standard deviation, with two digits of the deviation; the mean alone where there is none."""
    if spread is None:
        return ""
    if not spread.std > 0:
        return f"{spread.mean:.4g}"
    digits = min(6, max(0, 1 - math.floor(math.log10(spread.std))))
    return f"{spread.mean:.{digits}f} ± {spread.std:.{digits}f}"


def text(found: Found) -> str:
    """Return the table in Markdown."""
    names, rows = table(found)
    head = ["scale", *(evaluation.title(name, found["features"]) for name in names)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def best(found: Found) -> dict[str, float]:
    """Return name of a number -> the scale at which its mean is best."""
    chosen = {}
    for name, choose in BEST.items():
        means = {scale: each[name].mean for scale, each in averages(found).items() if name in each}
        if means:
            chosen[name] = choose(means, key=means.__getitem__)
    return chosen


def page(found: Found, grids: Mapping[str, np.ndarray]) -> str:
    """Return the whole page. grids: pictures, by the titles of their sections."""
    anchors = {name: name.replace(" ", "-") for name in grids}
    links = {"curves": "curves", "table": "table", **{anchor: name for name, anchor in anchors.items()}}
    scales = [f"{scale:g}" for scale in averages(found)]
    title = f"{found['run']}: {found['guidance']}, scale {scales[0]} to {scales[-1]}"
    parts = {
        "title": escape(title),
        "lead": escape(_lead(found)),
        "best": escape(_best_sentence(found)),
        "links": "".join(f'<li><a href="#{escape(anchor)}">{escape(name)}</a></li>' for anchor, name in links.items()),
        "curves": "".join(_curve(found, panel) for panel in panels(found)),
        "caption": _caption(found),
        "table": _html_table(found),
        "notes": "".join(f'<p class="soft">{escape(note)}.</p>' for note in found["notes"]),
        "grids": "".join(_section(name, anchors[name], grid) for name, grid in grids.items()),
        "how": _meanings(found),
        "command": escape(found["command"]),
    }
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(parts)


def _lead(found: Found) -> str:
    seeds = len({row["seed"] for row in found["rows"]})
    every = f"{found['num_samples']} samples at each scale" + (f" and each of {seeds} seeds" if seeds > 1 else "")
    others = (
        f"The row “real” is {found['num_real']} real pictures that are not the reference" if found["num_real"] else ""
    )
    others += "; its accuracy is that of the held-out ones." if others else ""
    beside = f"; FD-DINOv2 by {found['dino']}" if found.get("dino") else ""
    return (
        f"{every}, drawn by {found['sampler']}; classes asked for: {found['labels']}. Reference: {found['reference']}. "
        f"Features: {found['features']}, {found['dimension']} numbers a picture{beside}. {others}"
    )


def _best_sentence(found: Found) -> str:
    words = {name: f"{name} is greatest" for name in BEST}
    words |= {"fd": "The distance is least", "fd_dinov2": f"{evaluation.title('fd_dinov2')} is least"}
    return ", ".join(f"{words[name]} at scale {scale:g}" for name, scale in best(found).items()) + "."


def _curve(found: Found, panel: str) -> str:
    source = base64.b64encode(svg(found, panel)).decode()
    return f'<figure><img alt="{ALTERNATIVES[panel]}" src="data:image/svg+xml;base64,{source}"></figure>'


def _section(name: str, anchor: str, grid: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid).save(buffer, format="png")
    source = base64.b64encode(buffer.getvalue()).decode()
    alternative = "Real pictures of the reference" if name == "real" else f"Samples at {name}"
    return (
        f'<section id="{escape(anchor)}"><h3>{escape(name)}</h3>'
        f'<img alt="{escape(alternative)}" src="data:image/png;base64,{source}"></section>'
    )


def _caption(found: Found) -> str:
    seeds = len({row["seed"] for row in found["rows"]})
    return f"Mean ± standard deviation over {seeds} seeds; the best mean is bold." if seeds > 1 else "One seed."


def _html_table(found: Found) -> str:
    names, rows = table(found)
    marked = best(found)
    head = "".join(f'<th scope="col">{escape(evaluation.title(name, found["features"]))}</th>' for name in names)
    body = ""
    for first, *cells in rows:
        chosen = [' class="best"' if f"{marked.get(name, math.nan):g}" == first else "" for name in names]
        data = "".join(f"<td{mark}>{escape(each)}</td>" for mark, each in zip(chosen, cells, strict=True))
        body += f'<tr><th scope="row">{escape(first)}</th>{data}</tr>'
    return f'<table><thead><tr><th scope="col">scale</th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _meanings(found: Found) -> str:
    names = next(iter(averages(found).values()))
    items = (
        f"<dt>{escape(evaluation.title(name, found['features']))}</dt><dd>{escape(MEANINGS[name])}</dd>"
        for name in names
    )
    return f"<dl>{''.join(items)}</dl>"
