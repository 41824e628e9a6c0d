"""The criterion of a request: what --criterion names, as a function (picture, level) -> scalar that is to be large.

Those by a picture have a second derivative of at most 1 in the pixels, so that strengths mean the same whatever the size.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from guided_jax import criteria, data, schedule
from guided_jax.app import experiments
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts, check_pictures
from guided_jax.app.sample import named_pictures
from guided_jax.app.sample.request import CLASSIFIER, CLIP, Method, option

Criterion = Callable[..., Any]  # (picture, level) -> scalar
USAGE = "give classifier, clip, colour:R,G,B, picture:FILE, style:FILE or FILE.py:function"


def add_criterion(run: runs.Run, method: Method) -> runs.Run:
    """Return the run with the criterion of a request; ValueError for words, numbers or files that name none."""
    if method.criterion in (CLASSIFIER, CLIP):
        return run
    kind, _, rest = method.criterion.partition(":")
    if kind in KINDS:
        check_pictures(run.facts, f"--criterion {kind}")
        return run._replace(criterion=KINDS[kind](rest, run.facts))
    return run._replace(criterion=_function(method.criterion))


def files_of(method: Method) -> list[Path]:
    """Return the file that a criterion names, if it names one."""
    kind, _, rest = method.criterion.partition(":")
    if method.criterion in (CLASSIFIER, CLIP) or kind == "colour":
        return []
    return [Path(rest if kind in KINDS else method.criterion.rpartition(":")[0])]


def check(method: Method, run: runs.Run) -> None:
    """Raise ValueError for what a criterion that is no classifier ignores, and for one that does not take what it gets."""
    if method.criterion == CLASSIFIER:
        return
    for name, given in {"clean_classifier": method.clean_classifier, "any_of": method.any_of}.items():
        if given:
            raise ValueError(
                f"{option(name)} has no effect with --criterion {method.criterion}; leave out one of the two"
            )
    if method.temperature != 1:
        raise ValueError(f"--temperature has no effect with --criterion {method.criterion}; leave out one of the two")
    if run.criterion is not None:
        _check_scalar(run, method)
    elif method.space == "latents":
        raise ValueError("--criterion clip is of pictures; leave out --in latents")


def check_judge(method: Method, run: runs.Run) -> None:
    """Raise ValueError for a guidance by pictures without a judge, and for one of other pictures or classes."""
    judge, own = run.judge, (run.facts.image_shape, run.facts.num_classes)
    if judge is None:
        raise ValueError("--in pixels needs a classifier of pictures; name one by --clean-classifier JUDGE")
    if run.latent and method.space != "pixels":
        raise ValueError(
            "the judge of --clean-classifier is of pictures, and this run works on latents; add --in pixels"
        )
    check_pictures(run.facts, "--clean-classifier")
    found = (judge.picture_shape, judge.network.num_classes)
    if found != own:
        raise ValueError(
            f"the judge of --clean-classifier is of pictures {found[0]} of {found[1]} classes, and the run draws {own[0]} "
            f"of {own[1]}; give another"
        )


def _check_scalar(run: runs.Run, method: Method) -> None:
    """Raise ValueError for a criterion of pictures of a run of latents, and for one that does not return a scalar."""
    latents = run.latent and method.space != "pixels"
    if latents and method.criterion.partition(":")[0] in KINDS:
        raise ValueError(
            f"--criterion {method.criterion} is of pictures, and this run works on latents; add --in pixels"
        )
    assert run.criterion is not None
    x = jax.ShapeDtypeStruct(run.model.shape if latents else run.facts.image_shape, jnp.float32)
    found = jax.eval_shape(run.criterion, x, schedule.at(run.model.levels, 1))
    if getattr(found, "shape", None) != ():
        what = getattr(found, "shape", type(found).__name__)
        raise ValueError(f"--criterion {method.criterion} returns {what} of x_0 {x.shape}; return one scalar")


def _colour(words: str, facts: Facts) -> Criterion:
    channels = facts.image_shape[-1]
    try:
        numbers = [float(word) for word in words.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != channels or not all(0 <= number <= 255 for number in numbers):
        example = "colour:200,40,40" if channels == 3 else "colour:" + ",".join(["128"] * channels)
        raise ValueError(f"--criterion is colour:{words}; give {channels} numbers from 0 to 255, such as {example}")
    return criteria.colour(jnp.asarray(numbers) / 127.5 - 1, error=1 / math.sqrt(_pixels(facts)))


def _picture(name: str, facts: Facts) -> Criterion:
    picture = _read(name, "picture", facts)
    if picture.shape != facts.image_shape:
        raise ValueError(
            f"--criterion picture:{name} has pixels {picture.shape}, the run draws {facts.image_shape}; resize it"
        )
    return criteria.near(picture)


def _style(name: str, facts: Facts) -> Criterion:
    picture = _read(name, "style", facts)
    own = criteria.patches(jnp.zeros(facts.image_shape))
    scales = min(len(criteria.patches(picture)), len(own))
    if not scales:
        raise ValueError(f"--criterion style:{name} has pixels {picture.shape}; give a picture of 3x3 pixels or more")
    # The second derivative in the pixels is at most sum_s 4 * 9 tr(G_s) / (error^2 4^s n_s): each pixel is in 9 patches, a
    # pixel of scale s is the mean of 4^s, n_s patches make G_s, whose trace of pixels in [-1, 1] is at most its size.
    steepest = sum(36 * f.shape[-1] / (4**i * f.shape[0] * f.shape[1]) for i, f in enumerate(own[:scales]))
    features = functools.partial(criteria.patches, scales=scales)
    error = math.sqrt(steepest)
    return criteria.style(picture, features, error)


KINDS = {"colour": _colour, "picture": _picture, "style": _style}


def _function(words: str) -> Criterion:
    place, _, name = words.rpartition(":")
    if not place.endswith(".py") or not name:
        raise ValueError(f"--criterion is {words!r}; {USAGE}")
    return experiments.load_function(words, "--criterion", "(picture, level), which returns a scalar")


def _read(name: str, kind: str, facts: Facts) -> jax.Array:
    pictures = named_pictures.read_file(Path(name), facts.image_shape[-1], f"--criterion {kind}:")
    if not len(pictures):
        raise ValueError(f"--criterion {kind}:{name} has no picture; give a file with one")
    return jnp.asarray(data.scale(pictures[0]))


def _pixels(facts: Facts) -> int:
    return facts.image_shape[0] * facts.image_shape[1]
