"""Draw guided samples from a run into samples.npz and grid.png."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guided_jax import parallel, progress
from guided_jax.app import cli, latent_space
from guided_jax.app import run as runs
from guided_jax.app.sample import (
    annealing,
    checks,
    clip_guide,
    clouds,
    controls,
    criteria,
    diagnostics,
    draw,
    guidances,
    labels,
    loras,
    prompts,
    samplers,
)
from guided_jax.app.sample.inputs import given_labels, make_inputs
from guided_jax.app.sample.output import check_finite, destination, is_complete, open_samples, request, save
from guided_jax.app.sample.parts import usual_data_std
from guided_jax.app.sample.request import Sampling, option
from guided_jax.app.translate import JUDGE, translate_errors
from guided_jax.models import tiles
from guided_jax.storage import streaming

PAGE = """
usage: guided-jax sample RUN [OPTIONS]

Draw guided samples from a run, or from a folder of diffusers: samples.npz, samples.json and
grid.png. The same command again goes on from what is there.

  guided-jax sample runs/digits --guidance classifier-free --scale 3 --labels 3 7 --out out/
  guided-jax sample runs/digits --guidance classifier --scale 2 --sampler ddim --steps 50

  --list                  the guidances, samplers and grids that there are
  --preset                of a published model: as its authors did; other options count more
  --guidance NAME         none (default), classifier, classifier-free, ...; +interval may follow
  --scale FLOAT ...       0 ignores the label, 1 is the conditional model (default)
  --labels CLASS ...      numbers or names, in turn; default: by the data's frequencies
  --num-samples INT       default 64
  --sampler NAME          default dpm++; --steps INT, default the sampler's own number
  --checkpoint last|best  which weights
  --image FILE ...        start from pictures (--strength 0.6); --mask FILE: paint in them
  --prompt TEXT ...       text to image, in turn; --prompts FILE, --negative TEXT, --lora FILE:0.8
  --particles INT         draw the law of the guidance itself, by so many weighted examples each
  --seed INT              with the index of a sample it determines the sample (default 0)
  --out FOLDER            default: a folder inside the run, named after the method
  --diagnose              also write what happened at each step, as curves
"""
NUM_SAMPLES = 64  # without --num-samples
PROMPTED = ("--guidance", "classifier-free")  # before the options of a request with prompts


def main(args: Sequence[str]) -> None:
    """Draw what the command line asks for."""
    if "--list" in args:
        print(guidances.listing(), samplers.listing(), sep="\n\n")
        return
    options = parse(args)
    if options.sweep.sweep is not None:
        from guided_jax.app.sweep import command as sweep  # with all that measures, which drawing alone does not need

        sweep.sweep_run(*sweep.prepare(options))
        return
    parallel.use_cpu_devices()
    options, run = resolve_run(options)
    usual = NUM_SAMPLES if run.text is None else len(options.labels or ())
    options = complete(dataclasses.replace(options, num_samples=options.num_samples or usual), run)
    out = make_writer(options, run)(options)
    print(f"{out / 'samples.npz'} and {out / 'grid.png'}: {options.num_samples} images")


def parse(args: Sequence[str], program: str = "guided-jax sample", page: str = PAGE) -> Sampling:
    """Return the request of a command line; with --preset the authors' options come first. page: for --help."""
    read = functools.partial(cli.parse, Sampling, program, description=page)
    prompted = any(word.split("=")[0] in ("--prompt", "--prompts") for word in args)
    options = read([*PROMPTED, *args] if prompted else args)
    if not options.preset:
        return options
    words = runs.preset(options.run)
    if not words:
        raise ValueError(f"{options.run} has no preset, which guided-jax convert writes; leave out --preset")
    return checks.drop_unread(read([*words, *args]), options)


def resolve_run(options: Sampling) -> tuple[Sampling, runs.Run]:
    """Return the request in numbers, checked, and its run, whose classes are the prompts of a text-to-image request."""
    options, run = prompts.resolve_prompts(options, load_run(options))
    options = options if run.text is not None else labels.resolve_labels(options, run.facts)
    checks.check(options, run)
    return options, run


def load_run(options: Sampling) -> runs.Run:
    """Return the run of a request, with the run of --bad, the judge of --clean-classifier, the CLIP of --clip-model."""
    run, bad, side = runs.load(options.run, options.data_dir), options.method.bad, options.decode_tile
    run = controls.add_control(loras.merge_loras(run, options.lora), options.method)
    if side is not None:
        run = run._replace(model=run.model._replace(decode=decode_in_tiles(run, side)))
    run = change_network(run, options)
    run = run if bad is None else run._replace(bad=runs.load(bad))
    run = clip_guide.add_clip(run, options.method.clip_model)
    run = criteria.add_criterion(run, options.method)
    judge = options.method.clean_classifier
    if judge is None:
        return run
    from guided_jax.metrics.judge import load_judge  # with all that measures, which drawing alone does not need

    with translate_errors(JUDGE):
        return run._replace(judge=load_judge(judge))


def change_network(run: runs.Run, options: Sampling) -> runs.Run:
    """Return the run with the attention kernel and the remat of a request; ValueError where the network has neither."""
    given = {"attention_kernel": options.attention_kernel, "remat": options.remat or None}
    fields = {name: value for name, value in given.items() if value is not None}
    if not fields:
        return run
    variant = run.variant
    if variant is None:
        raise ValueError(f"{option(next(iter(fields)))} has no effect here; this network has no such setting")

    def changed(more: Any = None, low_res: Any = None, estimate: Any = None) -> Any:
        return variant({**fields, **(more or {})}, low_res, estimate)

    return run._replace(model=run.model._replace(network=changed()), variant=changed)


def complete(options: Sampling, run: runs.Run) -> Sampling:
    """Return a checked request with the defaults that depend on the run, as it is recorded."""
    settings = options.method.measurement
    std = usual_data_std(options.method, run) if settings.data_std is None else settings.data_std
    method = dataclasses.replace(options.method, measurement=dataclasses.replace(settings, data_std=std))
    return loras.with_digests(dataclasses.replace(options, method=method))


def decode_in_tiles(run: runs.Run, side: int) -> Callable[[Any, Any], Any]:
    """Return `Model.decode` of the run by tiles of side x side latents; ValueError for a run that decodes nothing."""
    if run.decode_size is None:
        raise ValueError("--decode-tile has no effect here; it is for runs of latents")
    decode = run.model.decode
    return lambda params, x: tiles.apply_in_tiles(lambda part: decode(params, part), x, side)


def make_writer(options: Sampling, run: runs.Run) -> Callable[..., Path]:
    """Return (options, reuse=False, label="sampling") -> the folder with the samples, drawn and written.

    It is compiled once for all options that differ from these in scale, seed and folder only. reuse: samples that answer
    the same request are not drawn again. label: of the progress bar.
    """
    at_once = clouds.samples_at_once(options)
    devices = parallel.choose_devices(at_once, options.devices)
    params = load_params(options, run, draw.choose_sharding(options, devices))
    if not options.shard_parameters:
        params = draw.place(run, params, devices)
    count, labelled = options.num_samples or NUM_SAMPLES, given_labels(options, run) is not None
    kinds = options.diagnose, draw.choose_map(options), clouds.chunk_of(options)
    sample = draw.make_sampler(run, options.method, labelled, devices, *kinds)
    chunk, steps = parallel.chunk_size(count, at_once, devices), trained_steps(options, run)
    levels = samplers.levels_of(options.method, run.model.levels, run.scheduler)

    def write(options: Sampling, reuse: bool = False, label: str = "sampling") -> Path:
        inputs, out = make_inputs(options, run), destination(options)
        if reuse and is_complete(out, options):
            return out

        with open_samples(out, count, run, options, steps) as (stream, done):
            saved: list[int] = []
            found: list[dict[str, np.ndarray]] = []
            with progress.bar(count, label, "image", done, disable=stream is None) as bar:
                for indices, rows in parallel.padded_chunks(count, chunk, done):
                    row = inputs(indices)
                    drawn = sample(params, row.numbers, row.labels, row.scales, row.seeds, row.pictures)
                    drawn, indices, given = jax.tree.map(operator.itemgetter(rows), (drawn, indices, row.recorded))
                    check_finite(indices, drawn.finite, options)
                    if options.diagnose and indices[0] == 0 and stream is not None:
                        diagnostics.save(out, drawn.observations, levels)
                    if stream is not None:
                        streaming.put(stream, int(indices[0]), drawn.images, given)
                    saved.extend(() if drawn.saved is None else drawn.saved)
                    found.extend(() if drawn.cloud is None else [drawn.cloud])
                    bar.update(len(indices))
            if stream is not None:
                save(stream, out, run, inputs, request(options))
        parallel.wait_for_all()  # until the samples are there
        if saved:
            calls = len(saved) * (len(levels.t) - 1)
            print(f"{options.method.guidance} left out {sum(saved)} of {calls} calls of the unconditional model")
        if found:
            print(clouds.summary(options.method.particles, found))
        return out

    return write


def load_params(options: Sampling, run: runs.Run, sharding: Any = None) -> dict[str, Any]:
    """Return the parameters of every network that the method calls, and of the classifier that --diagnose shows.

    sharding: leaf -> where it goes; one device if None.
    """
    method, which = options.method, options.checkpoint
    found = {"diffusion": run.params("diffusion", sharding, which)}
    shown = options.diagnose and run.classifier is not None and run.trained(which).get("classifier") is not None
    needs = guidances.row_of(method).needs
    if "classifier" in needs or ("clean" in needs and run.judge is None) or shown:
        found["classifier"] = run.params("classifier", sharding, which)
    if guidances.anneals(method) and run.text is None and run.facts.labelling == "class":
        annealing.check_tables(found["diffusion"])
    if run.judge is not None:
        found["judge"] = parallel.place_leaves(run.judge.params, sharding)
    if run.clip is not None:
        found["clip"] = parallel.place_leaves(clip_guide.params_of(options, run, jax.local_devices()[0]), sharding)
    if run.bad:
        found["bad"] = run.bad.params("diffusion", sharding)
        latent_space.check_same(found["diffusion"], found["bad"])
    return found


def trained_steps(options: Sampling, run: runs.Run) -> dict[str, Any]:
    """Return how far each network was trained whose weights draw the samples, None for one that there is not.

    Of a judge and a CLIP their names, digests of their weights.
    """
    bad = {"bad": run.bad.trained("last").get("diffusion")} if run.bad else {}
    others = {"judge": run.judge, "clip": run.clip}
    return (
        run.trained(options.checkpoint) | bad | {name: each.name for name, each in others.items() if each is not None}
    )
