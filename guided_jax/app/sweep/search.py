"""Search the strengths of training-free guidance by beam search, a few samples each, and write search.json.

Source: [TFG] Ye et al. 2409.15761, section 4.3: from (0.25, 0.25, 0.001) one of rho, mu and smoothing is multiplied by 2,
2 or 10, up to 8, 8 and 1; the best two so far go on, six times.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from guided_jax import data, parallel, progress, schedule
from guided_jax.app import run as runs
from guided_jax.app.results import check_free
from guided_jax.app.sample import checks, draw, inputs, samplers, training_free
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Sampling, Sweep, recorded
from guided_jax.app.sample.sections import TrainingFree
from guided_jax.app.sweep import command as sweep
from guided_jax.app.sweep import evaluate
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.storage.files import replacing, writable_directory

Strengths = tuple[float, float, float]  # rho, mu, smoothing
Numbers = dict[str, float]
START: Strengths = (0.25, 0.25, 0.001)
FACTORS, MOST = (2.0, 2.0, 10.0), (8.0, 8.0, 1.0)
KEPT, ROUNDS, COUNT = 2, 6, 64
RECORD = "search.json"
COLUMNS = {"score": "score", "criterion": "criterion", "accuracy": "class accuracy", "fd": "Fréchet distance"}


def main(options: Sampling) -> None:
    """Search, write search.json, print the table and, as the last line, the command that draws with the best strengths."""
    _check_unread(options)
    parallel.use_cpu_devices()
    whole, run = sample.resolve_run(options)
    whole = dataclasses.replace(sample.complete(whole, run), num_samples=options.num_samples or COUNT)
    _check(whole, run)
    mine = {**recorded(whole), "steps": sample.trained_steps(whole, run)}
    out = writable_directory(whole.out or whole.run / "searches" / _name(whole, mine))
    check_free([out / RECORD], out / RECORD, mine, whole.overwrite)
    rows = find(make_measure(whole, run))
    best = best_command(options, rows[0])
    if parallel.primary():
        with replacing(out / RECORD) as file:
            file.write(evaluation.as_json({"asked": mine, "rows": rows, "command": best}))
    print(f"\n{table(rows)}\n\n{out / RECORD}\n{best}")


def find(measure: Callable[[Strengths], Numbers]) -> list[dict[str, Any]]:
    """Return a row for each strengths that were measured, the best first.

    measure: strengths -> numbers, of which the score counts.
    """
    rows: list[dict[str, Any]] = []
    new = [START, *_longer([START], [START])]
    with progress.bar(ROUNDS, "searching", "round", disable=not parallel.primary()) as bar:
        for _ in range(ROUNDS):
            rows += [{"strengths": each, **measure(each)} for each in new]
            rows.sort(key=lambda row: -row["score"])
            new = _longer([row["strengths"] for row in rows[:KEPT]], [row["strengths"] for row in rows])
            bar.update()
    return rows


def _longer(beam: Sequence[Strengths], known: Sequence[Strengths]) -> list[Strengths]:
    """Return the strengths of the beam with one multiplied by its factor, those that are not known yet, each once."""
    found: list[Strengths] = []
    for strengths in beam:
        for i in range(3):
            each = list(strengths)
            each[i] = round(min(each[i] * FACTORS[i], MOST[i]), 6)
            if (one := (each[0], each[1], each[2])) not in (*known, *found):
                found.append(one)
    return found


def make_measure(options: Sampling, run: runs.Run) -> Callable[[Strengths], Numbers]:
    """Return strengths -> the numbers of their samples, all of the same noise; compiled once.

    The score of a classifier is the class accuracy by the judge, which guides nothing, minus the Fréchet distance over that
    of the samples without guidance: strong guidance is recognised, and looks like no data. The score of any other criterion
    is its mean over the samples, as in [TFG].
    """
    devices = parallel.choose_devices(options.batch_size, options.devices)
    params = draw.place(run, sample.load_params(options, run), devices)
    labelled, count = inputs.given_labels(options, run) is not None, options.num_samples or COUNT
    drawer = draw.make_sampler(run, options.method, labelled, devices)
    chunk = parallel.chunk_size(count, options.batch_size, devices)
    row = inputs.make_inputs(options, run)(np.arange(count))
    judged = _make_judge(options, run, row.labels) if run.criterion is None else _make_criterion(run)

    def samples(strengths: Sequence[float]) -> np.ndarray | None:
        placed = parallel.replicate(np.asarray(strengths, np.float32), devices)
        given = {**params, training_free.STRENGTHS: placed}
        found, finite = [], []
        for indices, rows in parallel.padded_chunks(count, chunk, 0):
            pictures = jax.tree.map(lambda leaf, indices=indices: leaf[indices], row.pictures)
            drawn = drawer(
                given, *(part[indices] for part in (row.numbers, row.labels, row.scales, row.seeds)), pictures
            )
            found.append(drawn.images[rows])
            finite.append(drawn.finite[rows])
        return np.concatenate(found) if np.concatenate(finite).all() else None

    plain = samples((0.0, 0.0, 0.0))
    without = judged(plain) if plain is not None else {}

    def measure(strengths: Strengths) -> Numbers:
        pictures = samples(strengths)
        if pictures is None:
            return {"score": -math.inf}
        numbers = judged(pictures)
        if "criterion" in numbers:
            return {"score": numbers["criterion"], **numbers}
        return {"score": numbers["accuracy"] - numbers["fd"] / without.get("fd", math.inf), **numbers}

    return measure


def _make_judge(options: Sampling, run: runs.Run, labels: np.ndarray) -> Callable[[np.ndarray], Numbers]:
    pictures, others = evaluate.real_pictures(options.sweep.reference, run)
    extractors, reference = evaluate.make_reference(options, run, pictures, others)
    evaluate.warn_of_same_judge(run, reference)

    def judged(samples: np.ndarray) -> Numbers:
        found = feature_space.evaluate(extractors, sets.from_arrays("samples", samples, labels), reference.prepared)
        return {name: float(found[name]) for name in ("accuracy", "fd") if name in found}

    return judged


def _make_criterion(run: runs.Run) -> Callable[[np.ndarray], Numbers]:
    clean, criterion = schedule.at(run.model.levels, 1), run.criterion
    assert criterion is not None
    mean = parallel.jit(lambda pictures: jax.lax.map(lambda picture: criterion(picture, clean), pictures).mean())
    return lambda samples: {"criterion": float(mean(data.scale(samples)))}


def _check_unread(options: Sampling) -> None:
    """Raise ValueError for options of a sweep, and for strengths, which a search ignores."""
    given, usual = options.method.training_free, TrainingFree()
    unread = [name for name in ("rho", "mu", "smoothing") if getattr(given, name) != getattr(usual, name)]
    unread += ["scales"] if options.sweep.sweep != sweep.DEFAULT_SCALES else []
    unread += ["seeds"] if options.sweep.sweep_seeds != Sweep().sweep_seeds else []
    if unread:
        raise ValueError(
            f"--{unread[0]} has no effect with --search, which goes from 0.25, 0.25 and 0.001; leave it out"
        )


def _check(options: Sampling, run: runs.Run) -> None:
    if run.latent and run.criterion is not None and options.method.space != "pixels":
        raise ValueError("--search evaluates the criterion at pictures, and it is of latents; add --in pixels")
    if options.shard_parameters:
        raise ValueError("--search places the parameters on every device; leave out --shard-parameters")
    if (options.num_samples or 0) > checks.MOST_SWEPT:
        raise ValueError(f"--num-samples is {options.num_samples}; a search draws up to {checks.MOST_SWEPT}")


def _name(options: Sampling, mine: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(mine).encode()).hexdigest()[:6]
    return f"{options.method.guidance}-{samplers.step_name(options.method)}-seed{options.seed}-{digest}"


def best_command(options: Sampling, row: dict[str, Any]) -> str:
    """Return the command that draws with the strengths of a row, and with everything else as the search had it."""
    rho, mu, smoothing = row["strengths"]
    own = dataclasses.replace(options.method.training_free, rho=rho, mu=mu, smoothing=smoothing)
    method = dataclasses.replace(options.method, training_free=own)
    told = dataclasses.replace(options, method=method, sweep=Sweep(), num_samples=None, data_dir=None)
    return sweep.command_line(told, "sample")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    head = ["rho", "mu", "smoothing", *(COLUMNS[name] for name in names)]
    body = [
        [*(f"{value:g}" for value in row["strengths"]), *(f"{row[name]:.3g}" if name in row else "" for name in names)]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))
