"""Draw samples at several scales and seeds, measure them against real pictures, and write curves and one page of it."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import parallel
from guided_jax.app import run as runs
from guided_jax.app.results import check_free
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import distilled, guidances, inputs, samplers
from guided_jax.app.sample.labels import spell, takes_labels
from guided_jax.app.sample.request import NOT_RECORDED, Label, Sampling, flatten, option, recorded
from guided_jax.app.sweep import curves, evaluate, page, scales
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.storage import images, lock
from guided_jax.storage.files import is_result_of, replacing

PAGE = """
usage: guided-jax sweep RUN --guidance NAME [--scales SCALES] [OPTIONS]

Draw at several scales and seeds, measure the samples against real pictures, and leave one page
with the numbers, error bars, curves and pictures: sweep.html, sweep.png, sweep.json.

  guided-jax sweep runs/digits --guidance classifier-free
  guided-jax sweep runs/digits --guidance classifier --scales 0,1,2.5 --seeds 2 --num-samples 500

  --scales SCALES      0:8 for 0, 1 .. 8 (default), 0:8:0.5 in steps of 0.5, or 0,1,2.5
  --seeds INT          seeds at each scale; error bars are their standard deviation (default 3)
  --num-samples INT    at each scale and seed; default: as many as the reference has, up to 1000
  --reference WHAT     held-out (default), train, or an npz file of pictures
  --judge FOLDER       a judge by 'guided-jax judge'; default: RUN/judge, trained if missing
  --inception WEIGHTS  measure FID and its kin, in the features of Inception-v3
  --dino WEIGHTS       measure FD-DINOv2 beside them
  --search             training-free: search its strengths instead, by beam search
  and the options of guided-jax sample: --labels, --sampler, --steps, --seed, --out, ...
"""
DEFAULT_SCALES = "0:8"
RECORD, DRAWN = "sweep.json", "scale-*"  # in a sweep's folder: the request with its results, the folders of samples
MOST_SAMPLES = 1000  # at each scale and seed, without --num-samples


def main(args: Sequence[str]) -> None:
    """Sweep over the scales that the command line names, or search the strengths of training-free guidance."""
    options = sample.parse(["--sweep", DEFAULT_SCALES, *args], "guided-jax sweep", PAGE)
    if options.sweep.search:
        from guided_jax.app.sweep import search

        search.main(options)
        return
    sweep_run(*prepare(options))


def prepare(options: Sampling) -> tuple[Sampling, runs.Run, str]:
    """Return the options in full, checked, the run that they name, and their command line, as they were given."""
    words = scales.spell(options.sweep.sweep or DEFAULT_SCALES)
    options = dataclasses.replace(options, sweep=dataclasses.replace(options.sweep, sweep=words))
    parallel.use_cpu_devices()
    whole, run = sample.resolve_run(options)
    return sample.complete(whole, run), run, command_line(options)


def sweep_run(options: Sampling, run: runs.Run, command: str | None = None) -> Path:
    """Draw, measure, and write sweep.json, sweep.png and sweep.html; return their folder.

    What a folder holds is replaced, with --overwrite, when nothing can be refused any more. command: for the page; that of
    the options if None.
    """
    pictures, others = evaluate.real_pictures(options.sweep.reference, run)
    count = options.num_samples or min(MOST_SAMPLES, pictures.size)
    options = dataclasses.replace(options, num_samples=count)
    out, mine = destination(options, run), request(options, run)
    labelled = dataclasses.replace(options, labels=labels_of(options, run))
    planned = list(plan(labelled, out))
    if "scales" in guidances.row_of(options.method).needs:
        distilled.check([scale for (scale, _), _ in planned], run)
    check_free([out / RECORD, *out.glob(DRAWN)], out / RECORD, mine, options.overwrite)
    extractors, reference = evaluate.make_reference(options, run, pictures, others)
    evaluate.warn_of_same_judge(run, reference)
    write, _ = sample.make_writer(labelled, run), inputs.make_inputs(labelled, run)
    with contextlib.ExitStack() as held:

        def begin() -> bool:
            """Hold the folder, in the one process that writes into it."""
            held.enter_context(lock.hold(out))
            claim(out, mine, options.overwrite)
            return True

        parallel.from_primary(begin)
        drawn = [(*at, write(one, reuse=True, label="scale {:g}, seed {}".format(*at))) for at, one in planned]
        measured = evaluate.evaluate(drawn, labelled, extractors, reference)
        described = {**describe(options, run, reference), "command": command or command_line(options)}
        found = {**described, **measured, "asked": mine}
        if parallel.primary():
            save(out, found, grids_of(drawn, pictures))
    return out


def labels_of(options: Sampling, run: runs.Run) -> tuple[Label, ...] | None:
    """Return the given classes, or, where the guidance uses a label, those of the data in the data's proportions.

    In turn and not at random: how often a class comes by chance would hide what the scale does.
    """
    method, frequencies = options.method, np.asarray(run.facts.class_frequencies)
    drawn = guidances.row_of(method).labelled and run.facts.labelling == "class"
    if options.labels or method.any_of or options.base_samples or not drawn:
        return options.labels
    counts, found = np.zeros_like(frequencies), []
    for i in range(options.num_samples or 0):
        found.append(int(np.argmax(frequencies * (i + 1) - counts)))  # the class that is most behind its share
        counts[found[-1]] += 1
    return tuple(found)


def plan(options: Sampling, out: Path) -> Iterator[tuple[tuple[float, int], Sampling]]:
    """Yield ((scale, seed), the request for their samples)."""
    bare = dataclasses.replace(options.sweep, sweep=None)
    for scale in scales.parse(options.sweep.sweep or ""):
        for seed in evaluate.seeds_of(options):
            folder = out / f"scale-{scale:g}" / f"seed-{seed}"
            yield (scale, seed), dataclasses.replace(options, scale=(scale,), seed=seed, out=folder, sweep=bare)


def request(options: Sampling, run: runs.Run) -> dict[str, Any]:
    """Return what determines the page: the options, and how far the networks were trained."""
    return {**recorded(options), "steps": sample.trained_steps(options, run)}


def destination(options: Sampling, run: runs.Run) -> Path:
    """Return the output folder."""
    digest = hashlib.sha256(json.dumps(request(options, run)).encode()).hexdigest()[:6]
    step = samplers.step_name(options.method)
    name = f"{options.method.guidance}-{options.sweep.sweep}-{step}-seed{options.seed}-{digest}"
    return (options.out or options.run / "sweeps" / name.replace(":", "-")).expanduser().absolute()


def claim(out: Path, mine: dict[str, Any], overwrite: bool) -> None:
    """Make a folder that of this sweep: what another one drew is removed, with `overwrite`, or raises ValueError."""
    made, drawn = out / RECORD, list(out.glob(DRAWN))
    check_free([made, *drawn], made, mine, overwrite)
    if is_result_of(made, mine):
        return
    for stale in drawn:
        shutil.rmtree(stale)
    with replacing(made) as file:
        file.write(evaluation.as_json({"asked": mine}))


def describe(options: Sampling, run: runs.Run, reference: evaluate.Reference) -> dict[str, Any]:
    """Return what the page says of how the metrics came about."""
    size, dimension = reference.pictures.size, len(reference.prepared.statistics.mean)
    dino = reference.prepared.dino and reference.prepared.dino.statistics
    count = options.num_samples or 0
    others = None if reference.others is None else min(count, len(reference.others))
    return {
        "run": options.run.resolve().name,
        "guidance": options.method.guidance,
        "sampler": samplers.step_name(options.method),
        "num_samples": count,
        "labels": describe_labels(options, run),
        "features": reference.features,
        "dimension": dimension,
        "dino": dino and dino.features,
        "reference": reference.pictures.describe(),
        "num_real": others,
        "notes": evaluation.notes(count, size, size, dimension),
    }


def describe_labels(options: Sampling, run: runs.Run) -> str:
    """Return in words which classes the samples were asked for."""
    method = options.method
    if options.labels:
        return f"{' '.join(map(spell, options.labels))}, in turn"
    if method.any_of:
        return f"any of {' '.join(map(str, method.any_of))}"
    if inputs.given_labels(options, run) is not None:
        return f"those of {options.base_samples}"
    if run.facts.labelling != "class":
        return "those of training pictures drawn at random" if takes_labels(options, run) else "none"
    if guidances.row_of(method).labelled:
        return "in the data's proportions" if options.base_samples is None else "drawn by the data's frequencies"
    needed = run.conditional and run.model.null is None
    return "drawn by the data's frequencies" if needed else "none"


def command_line(options: Sampling, command: str = "sweep") -> str:
    """Return the command of these options, without those at their defaults."""
    given, defaults = flatten(options), flatten(Sampling(options.run))
    words = ["guided-jax", command, str(options.run)]
    for name, value in given.items():
        if name not in ("run", *NOT_RECORDED) and value != defaults[name]:
            each = value if isinstance(value, tuple) and name != "negative" else (value,)
            flag = option(f"no_{name}") if value is False else option(name)
            if name == "lora":  # which takes one file each time
                words += itertools.chain.from_iterable((flag, spell(one)) for one in each)
            else:
                words += [flag, *([] if isinstance(value, bool) else map(spell, each))]
    return shlex.join(words)


def save(out: Path, found: dict[str, Any], grids: Mapping[str, np.ndarray]) -> None:
    """Write sweep.json, sweep.png and sweep.html, and print the table."""
    with replacing(out / RECORD) as file:
        file.write(evaluation.as_json(found))
    with replacing(out / "sweep.png") as file:
        file.write(curves.picture(found))
    with replacing(out / "sweep.html") as file:
        file.write(page.page(found, grids).encode())
    print(f"\n{page.text(found)}\n\n{out / 'sweep.html'}, sweep.png and sweep.json beside it")


def grids_of(drawn: Sequence[tuple[float, int, Path]], reference: sets.PictureSet) -> dict[str, np.ndarray]:
    """Return a grid of samples for each scale, all of the first seed, so of the same noise; and one of the reference."""
    found = {}
    for scale, seed, folder in drawn:
        if seed == drawn[0][1]:
            pictures = sets.from_file(folder / "samples.npz")
            assert pictures is not None
            found[f"scale {scale:g}"] = grid_of(pictures)
    return {**found, "real": grid_of(reference)}


def grid_of(pictures: sets.PictureSet, rows: int = 4, columns: int = 10) -> np.ndarray:
    """Return the first few of each class, a column a class, where up to 16 classes are known; else the first forty."""
    first = np.concatenate(list(itertools.islice(pictures.chunks(feature_space.BATCH_SIZE), 16)))
    labels = None if pictures.labels is None else pictures.labels[: len(first)]
    chosen = np.arange(min(len(first), rows * columns))
    if labels is not None and (labels >= 0).all() and 2 <= len(classes := np.unique(labels)) <= 16:
        members = [np.flatnonzero(labels == label) for label in classes]
        deep = min(rows, min(map(len, members)))
        chosen, columns = np.array([each[row] for row in range(deep) for each in members]), len(classes)
    return images.grid(first[chosen], columns, scale=max(1, 32 // first.shape[1]))
