"""The command `guided-jax metrics samples.npz reference.npz`: a table, and a JSON file beside the samples."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_jax import data, parallel
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.metrics.files import INCEPTION, Statistics, load_statistics, save_statistics, statistics_of
from guided_jax.metrics.summary import Summary
from guided_jax.storage.files import answers, replacing

MOST_STORED = 10_000

DESCRIPTION = """Measure samples against a reference: Fréchet and kernel distance, precision and recall, density and
coverage, and, with a classifier, the Inception Score and the class accuracy. See docs/metrics.md."""


def parser() -> argparse.ArgumentParser:
    """The options; what is wrong with them becomes ValueError."""
    found = argparse.ArgumentParser("guided-jax metrics", description=DESCRIPTION, allow_abbrev=False)
    found.error = _refuse  # type: ignore[method-assign, assignment]
    option = found.add_argument
    option("samples", type=Path, metavar="SAMPLES", help="npz file of pictures arr_0 and labels arr_1, as samples.npz")
    option(
        "reference",
        metavar="REFERENCE",
        help="npz file of pictures, of statistics mu and sigma, or of both (ADM, pytorch-fid); or a data set by its name, "
        "such as digits or folder:PATH",
    )
    option("--split", help="the part of a data set (default: test)")
    option("--data-dir", type=Path, metavar="PATH", help="where a data set lies; its own directory if not given")
    option(
        "--inception",
        type=Path,
        metavar="WEIGHTS",
        help="features by Inception-v3: pytorch-fid's or torchvision's weights, as .pt, .pth, .safetensors or .npz",
    )
    option(
        "--preprocessing",
        choices=("tensorflow", "pytorch-fid"),
        help="how pictures are brought to Inception's size: as ADM's evaluator (the default), or as pytorch-fid",
    )
    option(
        "--judge",
        type=Path,
        metavar="DIR",
        help="a clean classifier by 'guided-jax judge': class accuracy, "
        "and features unless --inception or --features says otherwise",
    )
    option(
        "--features",
        choices=(feature_space.PIXELS, feature_space.JUDGE, INCEPTION),
        help="what to measure in; by default inception or judge, if given, else pixels",
    )
    option(
        "--batch-size", type=int, default=64, metavar="INT", help="pictures at a time, over all devices (default: 64)"
    )
    option("--devices", type=int, metavar="INT", help="by default the largest count that divides the batch")
    option("--seed", type=int, default=0, metavar="INT", help="of the subsets of two of the numbers (default: 0)")
    option(
        "--save-statistics",
        type=Path,
        metavar="FILE",
        help="write mu and sigma of the reference, and up to 10,000 of its pictures: a reference itself, here, for ADM's "
        "evaluator and for pytorch-fid",
    )
    option("--out", type=Path, metavar="FILE", help="the JSON file; by default SAMPLES with the ending .metrics.json")
    option("--overwrite", action="store_true", help="replace a JSON file that answers another question")
    return found


def _refuse(message: str) -> None:
    raise ValueError(f"{message}; see guided-jax metrics --help")


def pictures_of(place: str, split: str | None, data_dir: Path | None) -> sets.PictureSet | None:
    """The pictures of a file, None if it has only statistics, or of a data set by its name."""
    if not _is_file(place):
        return sets.from_source(f"{place}, {split or 'test'}", data.load(place, split or "test", data_dir))
    if split or data_dir:
        raise ValueError(f"{place} is a file; --split and --data-dir are for data sets by their names")
    return sets.from_file(place)


def _is_file(place: str) -> bool:
    return place.endswith(".npz") and not place.startswith("npz:")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the table and the JSON file hold."""
    devices = parallel.choose_devices(options.batch_size, options.devices)
    samples = pictures_of(str(options.samples), None, None)
    if samples is None:
        raise ValueError(f"{options.samples} has no pictures under arr_0; they are what is measured")
    reference = pictures_of(options.reference, options.split, options.data_dir)
    found = feature_space.choose(options.judge, options.inception, options.features, options.preprocessing)
    see = feature_space.make_extractors(found, devices, options.batch_size)
    mine, mine_judged = feature_space.summaries(see, samples)
    other, other_judged = (None, None) if reference is None else feature_space.summaries(see, reference)
    statistics = statistics_for(options, found.name, other)
    if options.save_statistics:
        save_statistics(options.save_statistics, statistics, *stored(reference))
    numbers = evaluation.evaluate(mine, statistics, None if other is None else other.features, seed=options.seed)
    right, real = ({} if each is None else sets.judged(each) for each in (mine_judged, other_judged))
    return {
        "features": found.name,
        "dimension": len(statistics.mean),
        "samples": {**right, **numbers},
        "reference": real,
        "pictures": {"samples": samples.said(), "reference": reference.said() if reference else options.reference},
        "counts": {"samples": samples.size, "reference": statistics.size},
        "notes": evaluation.notes(
            samples.size, statistics.size, None if reference is None else reference.size, len(statistics.mean)
        ),
        "asked": asked(options),
    }


def stored(reference: sets.PictureSet | None) -> tuple[Any, Any]:
    """The first pictures and labels of a reference, as many as ADM's have, to be kept with its statistics."""
    if reference is None:
        return None, None
    pictures = np.concatenate(list(itertools.islice(reference.chunks(MOST_STORED // 10), 10)))
    return pictures, None if reference.labels is None else reference.labels[:MOST_STORED]


# What changes no number, or only where they go.
NOT_ASKED = ("out", "overwrite", "devices", "batch_size", "save_statistics")


def asked(options: argparse.Namespace) -> dict[str, str]:
    """What determines the numbers."""
    return {key: str(value) for key, value in vars(options).items() if key not in NOT_ASKED}


def statistics_for(options: argparse.Namespace, name: str, other: Summary | None) -> Statistics:
    """Those of the reference's file if they are of the same features, else those of its pictures."""
    found = load_statistics(options.reference) if _is_file(options.reference) else None
    if found is not None and found.features == name:
        return found
    if other is None:
        there = f"statistics of {found.features} features" if found else "neither pictures nor statistics"
        raise ValueError(
            f"{options.reference} has {there}, and {name} features are measured; give a reference of these"
        )
    return statistics_of(other, name)


def destination(options: argparse.Namespace) -> Path:
    """The JSON file; ValueError when it is there and answers another question."""
    path = options.out or options.samples.with_suffix(".metrics.json")
    if path.exists() and not options.overwrite and not answers(path, asked(options)):
        raise ValueError(f"{path} holds something else; give another --out, or --overwrite")
    return path


def main(args: Sequence[str]) -> None:
    """Measures, prints the table, writes the JSON file."""
    options = parser().parse_args(args)
    path = destination(options)
    parallel.use_cpu_devices()
    found = measured(options)
    for name, said in found["pictures"].items():
        print(f"{name}: {said}")
    print(f"features: {found['features']}, {found['dimension']} numbers a picture\n")
    columns = [(name, found[name]) for name in ("samples", "reference") if found[name]]
    print(evaluation.table(columns, found["features"]))
    for note in found["notes"]:
        print(f"note: {note}")
    with replacing(path) as file:
        file.write(evaluation.as_json(found))
    print(f"\n{path}")
