"""The command `guided-jax metrics samples.npz reference.npz`: a table, and a JSON file beside the samples."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from guided_jax import data, parallel
from guided_jax.app import captions, cli
from guided_jax.app.results import check_free
from guided_jax.app.translate import JUDGE, translate_errors
from guided_jax.metrics import evaluation, feature_space, sets
from guided_jax.metrics.files import Statistics, load_statistics, save_statistics, select, statistics_of
from guided_jax.storage.files import replacing

MAX_STORED = 10_000  # pictures that --save-statistics keeps beside the statistics

PAGE = """usage: guided-jax metrics SAMPLES [REFERENCE] [OPTIONS]

Measure samples against a reference: Fréchet distance (FID), kernel distance (KID), precision,
recall, density, coverage, Inception Score, accuracy; and against prompts: CLIP score, retrieval.

  SAMPLES     npz file with the pictures arr_0 and the labels arr_1, such as samples.npz
  REFERENCE   npz file of pictures, of statistics, or of both; or a data set, such as digits

  guided-jax metrics out/samples.npz digits --judge runs/digits/judge
  guided-jax metrics out/samples.npz --clip clip-vit-base-patch32

  --judge DIR             a classifier by 'guided-jax judge': class accuracy, and features
  --inception WEIGHTS     features by Inception-v3, with the weights of pytorch-fid or torchvision
  --preprocessing KIND    how pictures reach Inception's size: tensorflow (default) or pytorch-fid
  --dino WEIGHTS          FD-DINOv2, with the weights of DINOv2 (ViT-L/14 in papers)
  --features KIND         what to measure in: pixels, judge, inception or dino
  --clip DIR              a CLIP that did not condition the samples: CLIP score and retrieval
  --captions FILE         their prompts, one on each line (default: those in samples.json)
  --split, --data-dir     the part of a data set (default: test), and where it lies
  --save-statistics FILE  save the statistics of the reference, to measure against them again
  --out FILE              the JSON file (default: SAMPLES with the ending .metrics.json)
  --overwrite             replace a JSON file that holds the metrics of another command"""


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Measure samples against a reference, their prompts, or both; docs/metrics.md has the formulas."""

    samples: tyro.conf.Positional[Path]
    """npz file with the pictures arr_0 and the labels arr_1, as samples.npz."""
    reference: tyro.conf.Positional[str | None] = None
    """npz file of pictures, of statistics mu and sigma, or of both (ADM, pytorch-fid); or a data set by its name, such as
    digits or folder:PATH. Without it --clip alone is measured."""
    split: str | None = None
    """The part of a reference that is a data set; test if not given."""
    data_dir: Path | None = None
    """Where the data set lies; its own directory if not given."""
    inception: Path | None = None
    """Features by Inception-v3: the weights of pytorch-fid or torchvision, as .pt, .pth, .safetensors or .npz."""
    preprocessing: Literal["tensorflow", "pytorch-fid"] | None = None
    """How pictures are brought to Inception's size: as ADM's evaluator does (tensorflow), which is the default, or as
    pytorch-fid."""
    dino: Path | None = None
    """FD-DINOv2 beside the other metrics: the weights of DINOv2, as .pth, .pt, .safetensors or .npz. All metrics are by
    DINOv2 if nothing else is given to measure in."""
    judge: Path | None = None
    """The folder of a classifier of clean pictures, made by 'guided-jax judge': class accuracy, and features unless
    --inception or --features says otherwise."""
    features: Literal["pixels", "judge", "inception", "dino"] | None = None
    """What to measure in; if not given the first there of inception, judge and dino, else pixels."""
    clip: Path | None = None
    """CLIP score and retrieval of the prompts: the folder of a whole CLIP, as transformers or OpenCLIP saves it; not of the
    one whose text tower conditioned the samples."""
    captions: Path | None = None
    """--clip: a file as --prompts of 'guided-jax sample' takes it, with the prompt of each label, or, of samples without
    labels, of each picture. Default: the prompts that are recorded beside the samples."""
    allow_same_tower: bool = False
    """--clip: measure even by the tower that conditioned the samples, which a score by it favours."""
    batch_size: int = 64
    """Pictures at a time, over all devices."""
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""
    seed: int = 0
    """Seed of the random subsets of the kernel distance and of the extrapolated Fréchet distance."""
    save_statistics: Path | None = None
    """Write mu and sigma of the reference, and up to 10,000 of its pictures: a reference itself, for this command, ADM's
    evaluator and pytorch-fid."""
    out: Path | None = None
    """The JSON file; SAMPLES with the ending .metrics.json if not given."""
    overwrite: bool = False
    """Replace a JSON file that holds the metrics of another command."""


# Phrase of the library's messages -> what the command calls it.
OPTIONS = {
    **JUDGE,
    "data_dir": "--data-dir",
    "features 'judge' need judge=...": "--features judge needs --judge",
    "features 'inception' need inception=...": "--features inception needs --inception",
    "features 'dino' need dino=...": "--features dino needs --dino",
    "inception=": "--inception ",
    "preprocessing=": "--preprocessing ",
    "features 'inception'": "--features inception",
    "features 'judge'": "--features judge",
    "features 'dino'": "--features dino",
    "features 'pixels'": "--features pixels",
}
# Options that change no number.
UNRECORDED = ("out", "overwrite", "devices", "batch_size", "save_statistics", "allow_same_tower")
NEWER = ("dino", "clip", "captions")  # recorded only where they are given, as older files were written without them
# Options that mean nothing without another, or without a reference.
OF_REFERENCE = (
    "judge",
    "inception",
    "preprocessing",
    "dino",
    "features",
    "split",
    "data_dir",
    "seed",
    "save_statistics",
)
OF_CLIP = ("captions", "allow_same_tower")


def record(options: Metrics) -> dict[str, str]:
    """Return the options that determine the numbers, as text; the JSON file keeps them under "asked"."""
    found = {name: value for name, value in vars(options).items() if name not in UNRECORDED}
    return {name: str(value) for name, value in found.items() if name not in NEWER or value is not None}


def open_set(place: str, split: str | None, data_dir: Path | None) -> sets.PictureSet | None:
    """Return the pictures of a file, None if it has only statistics, or those of a data set by its name."""
    if not _is_file(place):
        with translate_errors(OPTIONS):
            return sets.from_source(f"{place}, {split or 'test'}", data.load(place, split or "test", data_dir))
    if split or data_dir:
        raise ValueError(f"{place} is a file; --split and --data-dir are for data sets by their names")
    return sets.from_file(place)


def _is_file(place: str) -> bool:
    return place.endswith(".npz") and not place.startswith("npz:")


def check_options(options: Metrics) -> None:
    """Raise ValueError where there is nothing to measure, and for options that nothing reads."""
    missing = [("a REFERENCE", options.reference, OF_REFERENCE), ("--clip", options.clip, OF_CLIP)]
    if options.reference is None and options.clip is None:
        raise ValueError(
            "there is nothing to measure the samples against; give a REFERENCE, such as digits, or --clip with a CLIP"
        )
    for needed, given, names in missing:
        if unread := [name for name in names if given is None and getattr(options, name)]:
            raise ValueError(f"--{unread[0].replace('_', '-')} has no effect here; it goes with {needed}")


def open_samples(options: Metrics) -> sets.PictureSet:
    """Return the samples; ValueError for a file without pictures."""
    samples = open_set(str(options.samples), None, None)
    if samples is None or not samples.size:
        raise ValueError(
            f"{options.samples} has no pictures under arr_0, which are what is measured; give another file"
        )
    return samples


class Inputs(NamedTuple):
    """What samples are compared with, in which features. reference: its pictures; stored: the statistics in its file; None
    if absent.

    dino: the statistics in its file of DINOv2's features, where these are measured beside the others; None if absent.
    """

    reference: sets.PictureSet | None
    stored: Statistics | None
    dino: Statistics | None
    space: feature_space.FeatureSpace


def open_inputs(options: Metrics, samples: sets.PictureSet) -> Inputs:
    """Return the inputs; raise ValueError for everything that can be refused before a picture is read."""
    assert options.reference is not None
    reference = open_set(options.reference, options.split, options.data_dir)
    stored = load_statistics(options.reference) if _is_file(options.reference) else None
    with translate_errors(OPTIONS):
        space = feature_space.choose(
            options.judge, options.inception, options.features, options.preprocessing, options.dino
        )
        own, dino = (
            None if name is None else select(stored, name) for name in (space.name, space.dino and space.dino.name)
        )
        feature_space.check_shapes(space, samples, reference, own)
    there = "neither pictures nor statistics" if stored is None else f"statistics of {stored.features} features"
    wanted = [(space.name, own)] + ([(space.dino.name, dino)] if space.dino else [])
    if reference is None and (missing := [name for name, found in wanted if found is None]):
        raise ValueError(
            f"{options.reference} has {there}, and {missing[0]} features are measured; give a reference of these"
        )
    return Inputs(reference, own, dino, space)


def evaluate(options: Metrics) -> dict[str, Any]:
    """Return everything that the table and the JSON file hold."""
    check_options(options)
    devices = parallel.choose_devices(options.batch_size, options.devices)
    samples = open_samples(options)
    inputs = None if options.reference is None else open_inputs(options, samples)
    prompts = (
        None
        if options.clip is None
        else captions.open_prompts(options.clip, samples, options.samples, options.captions, options.allow_same_tower)
    )
    found: dict[str, Any] = {
        "samples": {},
        "reference": {},
        "pictures": {"samples": samples.describe()},
        "counts": {"samples": samples.size},
        "notes": [],
    }
    if inputs is not None:
        found = merge(found, compare(options, samples, inputs, devices))
    if prompts is not None:
        found = merge(found, captions.align(prompts, samples, devices, options.batch_size))
    return {**found, "asked": record(options)}


def merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of both; dicts and lists of one name become one."""
    found = one | other
    for name in one.keys() & other.keys():
        found[name] = one[name] + other[name] if isinstance(one[name], list) else one[name] | other[name]
    return found


def compare(
    options: Metrics, samples: sets.PictureSet, inputs: Inputs, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """Return the metrics against the reference, and what they were computed from."""
    reference, stored, dino, space = inputs
    extractors = feature_space.make_extractors(space, devices, options.batch_size)
    own, own_classes = feature_space.summaries(extractors, samples)
    other, other_classes = (None, None) if reference is None else feature_space.summaries(extractors, reference)
    statistics = stored or statistics_of(other, space.name)  # type: ignore[arg-type]  # `open_inputs` saw to one of them
    if space.dino is not None and dino is None:
        dino = statistics_of(extractors.dino(reference), space.dino.name)  # type: ignore[misc]  # as above
    if options.save_statistics and parallel.primary():
        save_statistics(options.save_statistics, statistics._replace(dino=dino), *first_pictures(reference))
    numbers = evaluation.evaluate(own, statistics, None if other is None else other.features, seed=options.seed)
    if extractors.dino is not None and dino is not None:
        numbers |= evaluation.distance(extractors.dino(samples), evaluation.prepare(dino))
    right, real = ({} if each is None else sets.accuracy(each) for each in (own_classes, other_classes))
    size, dimension = None if reference is None else reference.size, len(statistics.mean)
    return {
        "features": space.name,
        "dimension": dimension,
        "dino": dino and dino.features,
        "samples": {**right, **numbers},
        "reference": real,
        "pictures": {"reference": reference.describe() if reference else options.reference},
        "counts": {"reference": statistics.size},
        "notes": notes(samples.size, size, statistics, dino),
    }


def notes(samples: int, reference: int | None, statistics: Statistics, dino: Statistics | None) -> list[str]:
    """Return the notes on the numbers of pictures, and of the features of both distances."""
    own = evaluation.notes(samples, statistics.size, reference, len(statistics.mean))
    return own + ([] if dino is None else evaluation.notes(samples, dino.size, None, len(dino.mean)))


def first_pictures(reference: sets.PictureSet | None) -> tuple[Any, Any]:
    """Return the first pictures and labels of a reference, at most as many as ADM's references have, or (None, None)."""
    if reference is None:
        return None, None
    pictures = np.concatenate(list(itertools.islice(reference.chunks(MAX_STORED // 10), 10)))
    return pictures, None if reference.labels is None else reference.labels[:MAX_STORED]


def destination(options: Metrics) -> Path:
    """Return the path of the JSON file; raise ValueError when it holds the metrics of another command."""
    path = options.out or options.samples.with_suffix(".metrics.json")
    check_free([path], path, record(options), options.overwrite)
    return path


def main(args: Sequence[str]) -> None:
    """Measure, print the table, write the JSON file."""
    options = cli.parse(Metrics, "guided-jax metrics", args, description=PAGE)
    path = destination(options)
    parallel.use_cpu_devices()
    found = evaluate(options)
    if parallel.primary():
        with replacing(path) as file:
            file.write(evaluation.as_json(found))
    for name, description in found["pictures"].items():
        print(f"{name}: {description}")
    if "features" in found:
        beside = f"; FD-DINOv2 by {found['dino']}" if found["dino"] else ""
        print(f"features: {found['features']}, {found['dimension']} numbers a picture{beside}")
    if "clip" in found:
        print(f"prompts: {found['prompts']}, by {found['clip']}")
    columns = [(name, found[name]) for name in ("samples", "reference", "chance") if found.get(name)]
    print(f"\n{evaluation.table(columns, found.get('features', ''))}")
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"\n{path}")
