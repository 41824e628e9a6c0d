"""What can be wrong with a request, each in one sentence, before anything is loaded or computed."""

import dataclasses
from typing import Any

import numpy as np

from guided_jax.app import facts, network_fields
from guided_jax.app import run as runs
from guided_jax.app.sample import (
    annealing,
    clip_guide,
    clouds,
    criteria,
    distilled,
    gibbs,
    guidance_rows,
    guidances,
    inverse,
    labels,
    samplers,
)
from guided_jax.app.sample.request import Method, Sampling, flatten, option
from guided_jax.app.sample.resolve import variance_of
from guided_jax.app.sample.text_options import Text

OF_DATA = "labels of the data"  # of a run with several labels, or vectors, without --labels
MOST_SWEPT = 1_000_000  # samples at each scale and seed


def check(options: Sampling, run: runs.Run) -> None:
    """Raise ValueError for the first thing that is wrong with a request to a run."""
    check_readers(options, run)
    _check_names(options.method, run)
    _check_sweep(options, run)
    _check_labels(options, run)
    _check_space(options.method, run)
    criteria.check(options.method, run)
    _check_needs(options, run)
    _check_clip(options.method, run)
    clouds.check(options.method, run)
    if guidances.row_of(options.method).again is not None:
        gibbs.check(options.method, run, options.diagnose)
    if run.text is not None and run.text.takes_mask and not inverse.paints(options.method):
        raise ValueError("this run paints in pictures; name them by --image, and where by --mask")
    if options.diagnose and run.self_conditioning:
        raise ValueError("--diagnose calls a network without its last x_0; leave it out for this run")
    samplers.levels_of(options.method, run.model.levels, run.scheduler)
    samplers.make_step(options.method, run.model.levels, run.scheduler)


def check_readers(options: Sampling, run: runs.Run | None = None) -> None:
    """Raise ValueError for a non-default option that the chosen method ignores.

    run: without it, samples may take their labels from the data.
    """
    for name, readers in _unread(options, run).items():
        raise ValueError(f"{option(name)} has no effect here; it goes with {' or '.join(readers)}")
    if options.scale != (1.0,) and not guidances.row_of(options.method).scaled:
        raise ValueError(f"--scale has no effect with --guidance {options.method.guidance}; leave it out")


def _unread(options: Sampling, run: runs.Run | None = None) -> dict[str, list[str]]:
    """Return each non-default option that the chosen method ignores -> what reads it; run: as of `check_readers`."""
    given, defaults = flatten(options), flatten(Sampling(options.run))
    chosen = _chosen(options.method) | ({"--sweep"} if options.sweep.sweep else set())
    chosen |= {"--shard-parameters"} if options.shard_parameters else set()
    chosen |= {"--prompt"} if options.prompt or options.prompts else set()
    if run is None or labels.are_of_data(options, run):
        chosen.add(OF_DATA)
    changed = {name: readers for name, readers in _readers().items() if given[name] != defaults[name]}
    return {name: readers for name, readers in changed.items() if not chosen & set(readers)}


def drop_unread(options: Sampling, given: Sampling) -> Sampling:
    """Return a request without what it ignores of a preset: the interval of another guidance, or the scale of a sweep.

    given: the request without the preset; what it changes itself stays, for `check_readers` to refuse.
    """
    defaults = Sampling(options.run)
    own, usual = flatten(given), flatten(defaults)
    dropped = [name for name in _unread(options) if own[name] == usual[name]]
    method = dataclasses.replace(options.method, **{name: usual[name] for name in dropped})
    scaled = guidances.row_of(method).scaled and options.sweep.sweep is None
    unread = not scaled and given.scale == defaults.scale
    return dataclasses.replace(options, method=method, scale=defaults.scale if unread else options.scale)


def _chosen(method: Method) -> set[str]:
    """Return all that may read an option, in the words of `_readers`."""
    first, rest = guidances.parse(method.guidance)
    chosen: set[str] = {
        f"--guidance {first}",
        f"--grid {samplers.grid_name(method)}",
        *(f"+{word}" for word in rest),
    }
    if not guidances.row_of(method).own_step:
        chosen.add(f"--sampler {samplers.name_of(method)}")
    if guidances.shifts_mean(method):
        chosen.add("--guidance classifier --sampler ddpm")
    if "measurement" in guidances.row_of(method).needs:
        chosen |= {f"--operator {method.measurement.operator}"}
        chosen |= {f"--measure {name}" for name in method.measurement.measure}
    if "clean" in guidance_rows.GUIDANCES[first].needs:
        chosen.add(f"--criterion {method.criterion}")
    if method.control is not None:
        chosen.add("--control")
    if method.image:
        chosen |= {"--image", *(f"--image {name}" for name in method.image)}
    return chosen


def _readers() -> dict[str, list[str]]:
    """Return option -> what reads it, for all options that only some methods read."""
    rows = (
        {f"--guidance {name}": row.reads for name, row in guidance_rows.GUIDANCES.items()}
        | {
            "--sweep": ("sweep_seeds", "reference", "judge", "inception", "dino", "data_dir", "search"),
            **dict.fromkeys(("--measure held-out", "--image held-out", OF_DATA), ("data_dir",)),
            "--control": ("control_image", "control_scale"),
            "--shard-parameters": ("shard_group",),
            "--image": ("strength", "mask"),
            "--prompt": ("negative", *vars(Text())),
        }
        | guidances.READERS
        | samplers.readers()
    )
    found: dict[str, list[str]] = {}
    for reader, options in rows.items():
        for name in options:
            found.setdefault(name, []).append(reader)
    return found


def _check_names(method: Method, run: runs.Run) -> None:
    if method.guidance.startswith("cfg++") and not samplers.reads_eps(method, run.scheduler):
        raise ValueError(
            f"cfg++ leaves eps as it is, and {samplers.name_of(method)} reads x_0 alone; use --sampler ddim or deis"
        )
    if method.sampler is not None and guidances.row_of(method).own_step:
        raise ValueError(f"{method.guidance} makes steps of its own; leave out --sampler {method.sampler}")
    if "+interval" in method.guidance and not method.interval_low < method.interval_high:
        raise ValueError(
            f"--interval-low is {method.interval_low:g} and --interval-high {method.interval_high:g}, which guides "
            "nowhere; give a lower end below the upper one"
        )
    if guidances.anneals(method):
        annealing.check(method.anneal, run.experiment is not None and run.experiment.data.text == "words")
    if "+channels" in method.guidance and method.guided_channels > run.model.shape[-1]:
        raise ValueError(
            f"--guided-channels is {method.guided_channels}, and x has {run.model.shape[-1]} channels; give at most these"
        )
    variance_of(run, method.variance)


def _check_sweep(options: Sampling, run: runs.Run) -> None:
    if options.sweep.sweep is None:
        return
    first = guidances.parse(options.method.guidance)[0]
    if options.sweep.search and first != "training-free":
        raise ValueError(f"--search has no effect with --guidance {first}; it is for training-free")
    facts.check_pictures(run.facts, "a sweep")
    if not guidances.row_of(options.method).scaled:
        raise ValueError(f"--sweep {options.sweep.sweep} has no effect with --guidance {first}; name a guidance")
    if options.scale != (1.0,):
        raise ValueError("--sweep goes through several scales by itself; leave out --scale")
    if options.diagnose:
        raise ValueError("--diagnose is for one request; leave out --sweep")
    if own := [name for name in ("scale", "seed") if getattr(options, f"prompt_{name}")]:
        raise ValueError(
            f"--sweep goes through scales and seeds, and --prompts has a {own[0]} of its own; leave it out"
        )
    if (options.num_samples or 0) > MOST_SWEPT:
        raise ValueError(
            f"--num-samples is {options.num_samples}; a sweep draws up to {MOST_SWEPT} at each scale and seed"
        )


def _check_labels(options: Sampling, run: runs.Run) -> None:
    method, row, classes = options.method, guidances.row_of(options.method), run.facts.num_classes
    given = (*(options.labels or ()), *method.any_of, *method.also)
    wrong = [label for label in given if label not in range(classes)] if run.facts.labelling == "class" else []
    if ("conditional" in row.needs or (not row.labelled and options.labels)) and not run.conditional:
        raise ValueError("this run's network takes no labels; use --guidance classifier, or leave --labels out")
    if wrong:
        raise ValueError(f"label {wrong[0]} is out of range; the run has the classes 0 to {classes - 1}")
    if "null" in row.needs and run.model.null is None:
        raise ValueError(
            f"this run was trained without label dropout and has no null label, which {method.guidance} needs; use another "
            "guidance"
        )
    if method.any_of and options.labels:
        raise ValueError("--any-of stands in the place of --labels; give one of the two")
    if method.any_of and run.conditional and run.model.null is None:
        raise ValueError(
            "--any-of needs a model without a label; train with label dropout, or an unconditional network"
        )


def _check_needs(options: Sampling, run: runs.Run) -> None:
    """Check what the guidance cannot do without."""
    method, needs, classes = options.method, guidances.row_of(options.method).needs, run.facts.num_classes
    if "bad" in needs:
        _check_bad(run, method.guidance, labelled="bad_null" not in needs)
    if "bad_null" in needs and run.bad.conditional and run.bad.model.null is None:
        raise ValueError("the run of --bad was trained without label dropout and has no null label; give another")
    if {"classifier", "clean", "classes"} & set(needs):
        facts.check_classes(run.facts, f"--guidance {method.guidance}", "use classifier-free")
    if "clean" in needs and (run.judge is not None or method.space == "pixels"):
        criteria.check_judge(method, run)
    elif {"classifier", "clean"} & set(needs) and run.classifier is None:
        instead = "give one of clean pictures by --clean-classifier, or " if "clean" in needs else ""
        raise ValueError(f"this model has no classifier of noisy examples; {instead}use another guidance")
    if "classes" in needs and classes < 2:
        raise ValueError(
            f"--guidance {method.guidance} is away from a label drawn at random, and there is only one; use another"
        )
    _check_blocks(method, run)
    if "scales" in needs:
        distilled.check(() if options.sweep.sweep else options.scale, run)
    if method.label_scale is not None:
        _check_label_scale(options, run)
    if "also" in needs and not method.also:
        raise ValueError("compose needs further labels; name them with --also")
    if "also" in needs and len(method.also_scale) not in (0, len(method.also)):
        raise ValueError(
            f"--also has {len(method.also)} labels and --also-scale {len(method.also_scale)}; give as many"
        )
    if "negative" in needs and run.text is None:
        _check_negative(method.negative, run)
    if "measurement" in needs:
        inverse.check(method, run)
    if "clip" in needs:
        clip_guide.check(method, run)
    if (run.low_res is None) != (options.base_samples is None):
        wanted = "leave out" if options.base_samples else "name low-resolution pictures by"
        raise ValueError(f"this run is {'no' if options.base_samples else 'an'} upsampler; {wanted} --base-samples")


def _check_negative(label: Any, run: runs.Run) -> None:
    """Raise ValueError without a label to go away from."""
    classes = run.facts.num_classes
    if run.facts.labelling != "class" and label is None:
        raise ValueError("--negative is None; name the labels, or the vector, to go away from")
    if run.facts.labelling == "class" and label not in range(classes):
        raise ValueError(f"--negative is {label}; name a class from 0 to {classes - 1} to go away from")


def _check_blocks(method: Method, run: runs.Run) -> None:
    """Raise ValueError for blocks that the guidance needs and the network does not have."""
    for name in sorted({"perturb_blocks", "skip_blocks", "exit_block"} & set(guidances.row_of(method).needs)):
        if name not in run.fields:
            what = "attention to perturb" if name == "perturb_blocks" else f"{option(name)}"
            raise ValueError(f"this network has no {what}; use another guidance than {method.guidance}")
        network_fields.check(option(name), getattr(method, name) or (), run.fields[name])
    if method.attention_mask and run.attention is None:
        raise ValueError("this network has no attention that can be read; leave out --attention-mask")


def _check_label_scale(options: Sampling, run: runs.Run) -> None:
    """Raise ValueError for classifier-free guidance beside another one that has no label, or does not leave it as it is."""
    if run.model.null is None:
        raise ValueError("this run has no null label, which --label-scale needs; leave it out")
    if options.labels is None and options.base_samples is None:
        raise ValueError("--label-scale guides towards labels; name them by --labels")
    if {"rescale", "channels"} & set(guidances.parse(options.method.guidance)[1]):
        raise ValueError("+rescale and +channels are for one guidance alone; leave out --label-scale")


def _check_space(method: Method, run: runs.Run) -> None:
    if method.space is not None and not run.latent:
        raise ValueError(f"--in {method.space} is for runs of latents, and this one draws its x itself; leave it out")


def _check_bad(run: runs.Run, guidance: str, labelled: bool) -> None:
    """Raise ValueError without a second model, and for one that does not denoise what the first one does.

    labelled: whether it is given the label.
    """
    if run.bad is None:
        raise ValueError(f"{guidance} needs a second model; name its run with --bad RUN")
    mine, its = ((each.model.shape, each.low_res) for each in (run, run.bad))
    if mine != its:
        raise ValueError(
            f"the run of --bad works on x of {_sizes(*its)}, and this one on {_sizes(*mine)}; give another"
        )
    if labelled and run.bad.conditional and (run.text is None) != (run.bad.text is None):
        here, there = ("classes" if each.text is None else "prompts" for each in (run, run.bad))
        raise ValueError(f"the run of --bad takes {there}, and this one {here}; give another")
    if run.bad.text is not None and run.bad.text.takes_mask and not (run.text is not None and run.text.takes_mask):
        raise ValueError("the run of --bad paints in pictures, and this one does not; give another")
    here, there = (facts.count_labels(each.facts) for each in (run, run.bad))
    if labelled and run.bad.conditional and here != there:
        raise ValueError(f"the run of --bad has {there}, and this one {here}; give another")
    tables = zip(run.model.levels, run.bad.model.levels, strict=True)
    if not all(np.array_equal(one, other) for one, other in tables):
        raise ValueError("the run of --bad has other noise levels than this one; give one of the same --schedule")


def _sizes(shape: tuple[int, ...], low_res: int | None) -> str:
    return f"{shape}" + (f" from pictures of side {low_res}" if low_res else "")


def _check_clip(method: Method, run: runs.Run) -> None:
    dynamic = guidances.is_dynamic(method)
    if not run.bounded and (dynamic or method.clip_base):
        what = "+dynamic" if dynamic else "--clip-base"
        raise ValueError(f"{what} clips pixels, and this run works on latents, which have no range; leave it out")
    if method.clip_base and (dynamic or not method.clip):
        raise ValueError("--clip-base is for one clip before the guidance; leave out +dynamic and --no-clip")
    if dynamic and not method.clip:
        raise ValueError("+dynamic is the clip that --no-clip leaves out; leave out one of the two")
