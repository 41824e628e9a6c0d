"""Fine-tuning: the weights before the first step are the averaged ones of another run.

All of them have to fit, but for those of the classes: where the other run has other classes these are random.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import traverse_util
from jaxtyping import PyTree

from guided_jax.app import facts, networks
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.storage import checkpoint, compare

# Settings of a network that change what its weights compute and not their shapes.
HIDDEN = ("num_groups", "norm_num_groups", "num_head_channels", "num_heads", "use_new_attention_order")
# Settings of a run that change what its network is for; training learns the new one from the old one.
PURPOSE = ("parameterization", "self_conditioning", "low_res")
# Weights that a network may have though the other one does not: they start as random ones, or are left out.
ADDED = ("params/scale_embed_", "params/internal_")

Shapes = dict[str, tuple[int, ...]]  # by name, such as params/out_2/kernel


class Pair(NamedTuple):
    """One network, as it is here and in the run that it starts from, with the shapes of its weights in both."""

    part: str
    here: runs.Run
    there: runs.Run
    mine: Shapes
    theirs: Shapes

    @property
    def layer(self) -> str | None:
        """The name of the layer that depends on the classes, None where there is none."""
        return networks.class_layer(self.here.experiment, self.part)

    def of_classes(self, name: str) -> bool:
        """Return whether a weight is of that layer."""
        return self.layer is not None and name.startswith(self.layer)

    @property
    def same_classes(self) -> bool:
        """Whether the classes are as many in both, of the same names where both know them."""
        mine, theirs = self.here.facts, self.there.facts
        conditional = self.part == "classifier" or (self.here.conditional and self.there.conditional)
        same = (mine.num_classes, mine.labelling, mine.words) == (theirs.num_classes, theirs.labelling, theirs.words)
        named = None not in (mine.class_names, theirs.class_names)
        return conditional and same and not (named and mine.class_names != theirs.class_names)


def located(experiment: schema.Experiment) -> schema.Experiment:
    """Return the experiment with absolute paths of the runs that its networks start from; one that learns from a teacher
    starts from its weights."""
    for part in schema.TRAINED:
        settings = getattr(experiment, part)
        if settings.init_from is not None:
            settings = dataclasses.replace(settings, init_from=settings.init_from.expanduser().absolute())
            experiment = dataclasses.replace(experiment, **{part: settings})
    diffusion = experiment.diffusion
    if diffusion.distill_from is None or not diffusion.num_steps:
        return experiment
    teacher = diffusion.distill_from.expanduser().absolute()
    own: dict[str, Any] = {"distill_from": teacher, "init_from": diffusion.init_from or teacher}
    return dataclasses.replace(experiment, diffusion=dataclasses.replace(diffusion, **own))


def check(run: runs.Run, part: str, directory: Path) -> str | None:
    """Return what a network starts from, in words; None where it starts from random weights or from its own checkpoint.

    Raises ValueError for a run that is not there, and for weights that do not fit.
    """
    settings = getattr(run.experiment, part)
    if settings.init_from is None or checkpoint.latest(directory / part / "checkpoints") is not None:
        return None
    taught = settings.init_from == getattr(settings, "distill_from", None)
    option = f"--{part}.{'distill' if taught else 'init'}-from {settings.init_from}"
    if not settings.num_steps:
        raise ValueError(f"{option} has no effect with --{part}.num-steps 0; leave it out")
    pair = _pair(run, part)
    if wrong := _misfit(pair):
        raise ValueError(f"{option} does not fit: {wrong}; give the --{part}.network settings of that run")
    new = _new(pair)
    step = runs.step_of(settings.init_from, part, "last")
    start = f"{part} starts from the averaged weights of {settings.init_from}, step {step}"
    changed = compare.differences(_purpose(pair.there, part), _purpose(run, part))
    notes = [f"note: what {part} learns changes: {', '.join(changed)}"] if changed else []
    return "\n".join([f"{start}; new: {new}" if new else start, *notes])


def load(run: runs.Run, part: str, sharding: Any = None) -> dict[str, Any]:
    """Return the weights that a network starts from, by name; of a label embedding perhaps the first rows alone.

    sharding: where each goes, as for `checkpoint.load_params`. Raises ValueError when they cannot be read.
    """
    taken = _taken(_pair(run, part))
    found = traverse_util.flatten_dict(runs.params(getattr(run.experiment, part).init_from, part, sharding), sep="/")
    return {name: found[name][:rows] for name, rows in taken.items()}


def merge(params: PyTree, given: Mapping[str, Any]) -> PyTree:
    """Return the params with the given weights in their places; of one with fewer rows these are the first."""
    flat = traverse_util.flatten_dict(params, sep="/")
    for name, weight in given.items():
        weight = weight.astype(flat[name].dtype)
        same = weight.shape == flat[name].shape
        flat[name] = weight if same else flat[name].at[: len(weight)].set(weight)
    return traverse_util.unflatten_dict(flat, sep="/")


def _pair(run: runs.Run, part: str) -> Pair:
    source = getattr(run.experiment, part).init_from
    arguments = run.experiment, run.facts, run.networks, part
    mine = jax.eval_shape(lambda: networks.init(*arguments, jax.random.key(0)))
    return Pair(part, run, runs.load(source), _shapes(mine), _shapes(runs.param_shapes(source, part)))


def _shapes(tree: PyTree) -> Shapes:
    return {name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def _misfit(pair: Pair) -> str:
    """Return in words what of the network does not fit, "" for nothing."""
    names = [name for name in {**pair.theirs, **pair.mine} if not pair.of_classes(name)]
    wrong = [name for name in names if pair.theirs.get(name) != pair.mine.get(name) and not _added(pair, name)]
    if wrong:
        there, here = (each.get(wrong[0], "absent") for each in (pair.theirs, pair.mine))
        more = f", and {len(wrong) - 1} more" if wrong[1:] else ""
        return f"{wrong[0].removeprefix('params/')} is {there} there and {here} here{more}"
    theirs, mine = (_hidden(networks.settings_of(each.experiment, pair.part)) for each in (pair.there, pair.here))
    differing = [name for name in theirs if theirs[name] != mine[name]]
    return ", ".join(f"{name} is {theirs[name]} there and {mine[name]} here" for name in differing)


def _added(pair: Pair, name: str) -> bool:
    """Return whether only one of the two networks has these weights, and may."""
    return name.startswith(ADDED) and (name in pair.mine) != (name in pair.theirs)


def _hidden(network: Any) -> dict[str, Any]:
    found = {name: getattr(network, name) for name in HIDDEN if hasattr(network, name)}
    return found if found.get("num_head_channels") is None else {**found, "num_heads": None}


def _taken(pair: Pair) -> dict[str, int | None]:
    """Return name -> how many of its rows, None for all, of every weight that is taken."""
    taken: dict[str, int | None] = {}
    for name, shape in pair.mine.items():
        of_classes = pair.of_classes(name)
        if pair.theirs.get(name) == shape and (pair.same_classes or not of_classes):
            taken[name] = None
        elif pair.same_classes and name.endswith("/embedding"):
            taken[name] = pair.here.facts.num_classes
    return taken


def _new(pair: Pair) -> str:
    """Return in words which weights of the classes are random, "" for none."""
    taken = _taken(pair)
    added = list(dict.fromkeys(name.split("/")[1] for name in pair.mine if _added(pair, name)))
    if added:
        return ", ".join(added)
    if any(name not in taken for name in pair.mine):
        here, there = (_classes(run, pair.part) for run in (pair.here, pair.there))
        other = "words" if pair.here.facts.words is not None else "names"
        classes = f"{here} here and {there} there" if here != there else f"{here} of other {other}"
        return f"{(pair.layer or '').removeprefix('params/')}, for {classes}"
    partial = [name for name, rows in taken.items() if rows is not None and rows < pair.mine[name][0]]
    return "the null label" if partial else ""


def _classes(run: runs.Run, part: str) -> str:
    if part == "diffusion" and not run.conditional:
        return "no classes"
    return facts.count_labels(run.facts)


def _purpose(run: runs.Run, part: str) -> dict[str, Any]:
    """Return the settings that another training may change, and that say what the network computes."""
    settings = getattr(run.experiment, part)
    own = {name: getattr(settings, name) for name in PURPOSE if hasattr(settings, name)}
    return {"schedule": schema.to_dict(run.experiment.schedule), part: own}
