"""What each training trick brings on the digits: one run a variant and seed, measured by the judge that guided nothing.

    python -m benchmarks.tricks                                      # all of them, one after the other
    python -m benchmarks.tricks --variants eps min-snr --seeds 0 1   # some: several such commands may work at once
    python -m benchmarks.tricks --page                               # puts what is measured into docs/training.md

Each (variant, seed) has a file of its own in runs/tricks/measured; one that is there is not made again, and
runs/tricks/tricks.json has them all. Samples are drawn with the averaged weights, classifier-free at each scale, and
compared with the training data. On one accelerator processes share the memory and the compiled programs.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measured
from guided_jax import metrics, parallel, sampler
from guided_jax.app import cli, experiments, judge, posthoc
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import draw
from guided_jax.app.sample.request import Method
from guided_jax.app.train import command as train
from guided_jax.metrics import feature_space, sets
from guided_jax.metrics.judge import is_trained
from guided_jax.storage import images, log
from guided_jax.storage.files import is_result_of, replacing, writable_directory

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
USUAL = "usual"  # the weights that sample.py draws from
LENGTHS = (0.05, 0.1, 0.15, 0.2)  # sigma_rel of averages made afterwards
NUMBERS = {"accuracy": "accuracy", "fd": "distance", "precision": "precision", "recall": "recall"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the table calls it, and what of the experiment's diffusion settings and schedule it changes."""

    title: str
    diffusion: dict[str, Any]
    schedule: dict[str, Any] = dataclasses.field(default_factory=dict)


def weighted(name: str) -> dict[str, Any]:
    """The weighting of that name, as it comes."""
    return {"weighting": dataclasses.replace(schema.Weighting(), name=name)}


V = {"parameterization": "v"}
VARIANTS: dict[str, Variant] = {
    "eps": Variant("eps, plain", {"power_ema": (0.05, 0.1)}),
    "min-snr": Variant("eps, min-SNR", weighted("min-snr")),
    "p2": Variant("eps, P2", weighted("p2")),
    "sigmoid": Variant("eps, sigmoid", weighted("sigmoid")),
    "logit-normal": Variant("eps, logit-normal times", {"times": schema.Times(law="logit-normal")}),
    "stratified": Variant("eps, stratified times", {"times": schema.Times(stratified=True)}),
    "self-conditioning": Variant("eps, self-conditioning", {"self_conditioning": True}),
    "v": Variant("v, plain", V),
    "v-min-snr": Variant("v, min-SNR", V | weighted("min-snr")),
    "v-sigmoid": Variant("v, sigmoid", V | weighted("sigmoid")),
    "v-edm": Variant("v, EDM", V | weighted("edm")),
    "v-zero-terminal": Variant("v, zero terminal SNR", V, {"zero_terminal_snr": True}),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what each training trick brings on the digits."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which to measure; eps is the baseline, and its runs store the averages of every length."""
    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int = 500
    """Training steps: a third of the digits' own, so that it can be seen what a trick brings sooner."""
    num_samples: int = 1000
    """Pictures for each scale."""
    scales: tuple[float, ...] = (1.0, 2.0)
    steps: str = "15"
    """Of DPM-Solver++."""
    out: Path = Path("runs/tricks")
    page: bool = False
    """Measure nothing; put the tables of what is measured into docs/training.md."""


def experiment(name: str, seed: int, num_steps: int) -> schema.Experiment:
    """The digits with one variant's settings; checkpoints and held-out numbers at the end alone."""
    base, variant = experiments.load("digits"), VARIANTS[name]
    often = {"checkpoint_every": num_steps, "eval_every": num_steps, "sample_every": 0, "num_steps": num_steps}
    often |= {"batch_size": 128}  # of the digits as they were when the tables were measured
    diffusion = dataclasses.replace(
        base.diffusion, **often, keep_best=False, snapshot_every=max(1, num_steps // 15), **variant.diffusion
    )
    return dataclasses.replace(
        base,
        seed=seed,
        diffusion=diffusion,
        classifier=dataclasses.replace(base.classifier, num_steps=0),
        schedule=dataclasses.replace(base.schedule, **variant.schedule),
    )


Numbers = Callable[[sets.PictureSet], dict[str, float]]  # pictures -> accuracy, distance, precision, recall


def looking(out: Path, run: runs.Run) -> Numbers:
    """What the judge of all variants says of pictures, beside the training data. It is trained by the first process that
    asks; the others wait."""
    place = out / "judge"
    with (writable_directory(out) / "judge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_trained(place):
            judge.train(judge.Judging(out, out=place), run)
    found = feature_space.choose(place)
    see = feature_space.make_extractors(
        found, parallel.choose_devices(feature_space.BATCH_SIZE), feature_space.BATCH_SIZE
    )
    summary = see.features(sets.from_source("training data", run.experiment.data.make()), quiet=True)
    reference = metrics.prepare(metrics.statistics_of(summary, found.name), summary.features)

    def numbers(pictures: sets.PictureSet) -> dict[str, float]:
        said = feature_space.evaluate(see, pictures, reference)
        return {name: float(said[name]) for name in NUMBERS}

    return numbers


def drawer(options: Options, run: runs.Run, seed: int) -> Callable[[Any, float], sets.PictureSet]:
    """(weights, scale) -> samples, classes in turn; one program for all weights and scales."""
    method = Method(guidance="classifier-free", sampler="dpm++", steps=options.steps)
    devices = parallel.choose_devices(options.num_samples)
    compiled = parallel.parallel_map(draw.make_draw(run, method, True), devices, in_axes=(None, 0, 0, 0))
    indices = np.arange(options.num_samples)
    labels = (indices % run.facts.num_classes).astype(np.int32)
    keys = sampler.keys(jax.random.key(1000 + seed), indices)

    def samples(params: Any, scale: float) -> sets.PictureSet:
        placed = parallel.replicate({"diffusion": params}, devices)
        found = compiled(placed, keys, labels, np.full(len(indices), scale, np.float32))
        return sets.from_arrays("samples", images.to_uint8(found), labels)

    return samples


def weights_of(out: Path, run: runs.Run) -> dict[str, Any]:
    """The averaged weights by name: the usual ones, and those of every length where averages were stored."""
    found = {USUAL: runs.params(out, "diffusion")}
    if run.experiment.diffusion.power_ema:
        found |= {f"power {length:g}": posthoc.reconstruct(out, length)[1] for length in LENGTHS}
    return found


def measure(options: Options, name: str, seed: int) -> dict[str, Any]:
    """Trains, draws and judges one variant of one seed."""
    start, out = time.monotonic(), options.out / "runs" / f"{name}-{seed}-{options.num_steps}"
    settings = experiment(name, seed, options.num_steps)
    if not train.train(settings, out):
        raise RuntimeError(f"{out} was stopped")
    trained, run = time.monotonic() - start, runs.load(out)
    numbers, draw = looking(options.out, run), drawer(options, run, seed)
    rows = [
        {"weights": weights, "scale": scale, **numbers(draw(params, scale))}
        for weights, params in weights_of(out, run).items()
        for scale in options.scales
    ]
    held_out = [row for row in log.read(out / "diffusion" / "metrics.jsonl") if "held_out_loss" in row][-1]
    real = numbers(sets.from_source("held-out data", settings.data.make(held_out=True)))
    return {
        "held_out_loss": held_out["held_out_loss"],
        "rows": rows,
        "real": real,
        "seconds": {"training": round(trained, 1), "all": round(time.monotonic() - start, 1)},
    }


def place_of(options: Options, name: str, seed: int) -> Path:
    """The file of one variant and seed."""
    digest = hashlib.sha256(json.dumps(asked(options, name, seed)).encode()).hexdigest()[:6]
    return options.out / "measured" / f"{name}-{seed}-{digest}.json"


def asked(options: Options, name: str, seed: int) -> dict[str, Any]:
    """What determines its numbers."""
    said = {field: getattr(options, field) for field in ("num_steps", "num_samples", "scales", "steps")}
    return json.loads(json.dumps({"variant": name, "seed": seed, **said}))


def collect(options: Options) -> list[dict[str, Any]]:
    """All that is measured with these settings, of every variant and seed; written into one file too.

    ValueError when it was not one judge that measured all.
    """
    every = [json.loads(path.read_text()) for path in sorted((options.out / "measured").glob("*.json"))]
    found = [each for each in every if each["asked"] == asked(options, each["asked"]["variant"], each["asked"]["seed"])]
    seen = {round(each["real"]["fd"], 3) for each in found}  # of the same pictures
    if len(seen) > 1:
        raise ValueError(f"{options.out / 'measured'} has numbers of several judges; measure all of them with one")
    with replacing(options.out / "tricks.json") as file:
        file.write(json.dumps(found, indent=1).encode())
    return found


def spread(values: Sequence[float]) -> str:
    """mean ± standard deviation, to the digits that the deviation leaves."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4g}"
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}"


def body(found: Sequence[dict[str, Any]], scale: float) -> list[list[str]]:
    """The rows of the table of one scale: a variant each, and a length of the average each."""
    rows = []
    for name, variant in VARIANTS.items():
        mine = [each for each in found if each["asked"]["variant"] == name]
        for weights in dict.fromkeys(row["weights"] for each in mine for row in each["rows"]):
            title = variant.title if weights == USUAL else f"{variant.title}, {weights} average"
            losses = [each["held_out_loss"] for each in mine]
            taken = [row for each in mine for row in each["rows"] if (row["weights"], row["scale"]) == (weights, scale)]
            if not taken:
                continue
            cells = [spread([row[number] for row in taken]) for number in NUMBERS]
            rows.append([title, str(len(mine)), spread(losses) if weights == USUAL else "", *cells])
    real = [each["real"] for each in found][:1]
    return [*rows, *(["held-out digits", "", "", *(spread([each[number]]) for number in NUMBERS)] for each in real)]


def tables(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Markdown by the mark of its place in the page."""
    scales = sorted({row["scale"] for each in found for row in each["rows"]})
    head = ["run", "seeds", "held-out loss", *NUMBERS.values()]
    return {f"tricks, scale {scale:g}": measured.table(head, body(found, scale)) for scale in scales}


def main(args: Sequence[str]) -> None:
    """Measures what is asked for and not there yet, and prints the tables; with --page they go into docs/training.md."""
    options = cli.parse(Options, "python -m benchmarks.tricks", args, description=__doc__ or "")
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f"there is no variant {unknown[0]!r}; there is {', '.join(VARIANTS)}")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes on one accelerator
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(writable_directory(options.out / "compiled")))
    parallel.use_cpu_devices()
    for seed in () if options.page else options.seeds:
        for name in options.variants:
            place, mine = place_of(options, name, seed), asked(options, name, seed)
            if not is_result_of(place, mine):
                found = {"asked": mine, **measure(options, name, seed)}
                with replacing(place) as file:
                    file.write(json.dumps(found, indent=1).encode())
                print(f"{name}, seed {seed}: {found['seconds']} s", flush=True)
    texts = tables(collect(options))
    for name, text in texts.items():
        print(f"\n{name}\n\n{text}")
    if options.page:
        measured.fill_page(PAGE, texts)


if __name__ == "__main__":
    cli.script(main)
