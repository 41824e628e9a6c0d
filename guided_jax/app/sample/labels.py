"""The labels of a request: classes by number or by name, several labels, or vectors; and the row that each sample gets."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import parallel, sampler
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts, count_labels
from guided_jax.app.sample import guidances
from guided_jax.app.sample.request import Label, Sampling

SHOWN = 8  # names in an error message, at most


def resolve_labels(options: Sampling, facts: Facts) -> Sampling:
    """Return the request with the number of each class that it names; ValueError for a name that the run does not have.

    Of a run with several labels an image, each becomes the tuple of their numbers; of one with vectors, of its numbers.
    """
    if options.balanced:
        options = dataclasses.replace(options, labels=_every_class(options, facts))
    kinds: dict[str, Callable[[Facts, Label], Any]] = {"class": number_of, "labels": numbers_of, "vector": vector_of}
    number, method = functools.partial(kinds[facts.labelling], facts), options.method
    labels = None if options.labels is None else tuple(map(number, options.labels))
    any_of, also = tuple(map(number, method.any_of)), tuple(map(number, method.also))
    negative = None if method.negative is None else number(method.negative)
    method = dataclasses.replace(method, any_of=any_of, also=also, negative=negative)
    return dataclasses.replace(options, labels=labels, method=method)


def _every_class(options: Sampling, facts: Facts) -> tuple[Label, ...]:
    """Return every class once, for --balanced; ValueError beside --labels, and for a run without classes."""
    if options.labels:
        raise ValueError("--balanced stands in the place of --labels; give one of the two")
    if facts.labelling != "class":
        raise ValueError(f"--balanced is for classes, and this run has {count_labels(facts)}; name --labels")
    return tuple(range(facts.num_classes))


def number_of(facts: Facts, label: Label) -> int:
    """Return the number of a class; a number stands for itself, and is noted where another class has it as its name."""
    names = facts.class_names or ()
    named = names.index(str(label)) if str(label) in names else None
    if isinstance(label, str):
        if named is None:
            raise ValueError(_unknown(facts, label))
        return named
    if named not in (None, label) and 0 <= label < len(names):
        other = f"the class named '{label}' has the number {named}"
        print(f"note: label {label} is the number of class {names[label]!r}; {other}", file=sys.stderr)
    return label


def numbers_of(facts: Facts, label: Label) -> tuple[int, ...]:
    """Return the numbers of several labels, "3,7", by number or by name; "none" for no label."""
    words = [] if label == "none" else str(label).split(",")
    numbers = {number_of(facts, int(word) if word.strip().lstrip("-").isdecimal() else word.strip()) for word in words}
    if wrong := [number for number in numbers if number not in range(facts.num_classes)]:
        raise ValueError(f"label {wrong[0]} is out of range; the run has the labels 0 to {facts.num_classes - 1}")
    return tuple(sorted(numbers))


def vector_of(facts: Facts, label: Label) -> tuple[float, ...]:
    """Return the numbers of a vector, "0.3,1.2"; nan for one that is not known."""
    try:
        numbers = tuple(float(word) for word in str(label).split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != facts.num_classes or any(math.isinf(number) for number in numbers):
        example = ",".join(["0.5"] * facts.num_classes)
        raise ValueError(
            f"the label {label} is no vector of this run; give {facts.num_classes} numbers, such as {example}"
        )
    return numbers


def rows_of(labels: Sequence[Any], run: runs.Run) -> np.ndarray:
    """Return labels of a resolved request, a row each: int classes (n,), or float32 (n, K)."""
    return np.asarray(labels) if run.facts.labelling == "class" else np.stack([run.raw(label) for label in labels])


def spell(label: Any) -> str:
    """Return a label of a resolved request as a command line gives it."""
    return ",".join(map(str, label)) or "none" if isinstance(label, tuple) else str(label)


def takes_labels(options: Sampling, run: runs.Run) -> bool:
    """Return whether the model is given a label, whatever was asked for: its guidance or network takes one."""
    return guidances.row_of(options.method).labelled or (run.conditional and run.model.null is None)


def are_of_data(options: Sampling, run: runs.Run) -> bool:
    """Return whether the samples take labels of training examples, which have to be there: not of classes."""
    return run.facts.labelling != "class" and not options.labels and takes_labels(options, run)


def make_labels(options: Sampling, run: runs.Run, given: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return indices -> the label of each sample: the given ones in turn, or those of the data.

    Classes are drawn by their frequencies, int (n,). Several labels and vectors, float32 (n, K), are those of training
    examples, drawn at random, which have to be there; ValueError otherwise. NaN stands for no label.
    """
    facts, seed = run.facts, options.seed
    if given is not None or facts.labelling == "class":
        return lambda indices: labels_of(indices, given, facts, seed)
    if not takes_labels(options, run):
        return lambda indices: np.full((len(indices), facts.num_classes), np.nan, np.float32)
    try:
        source = runs.source(run)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"without --labels they are those of the training data: {error}; name some with --labels"
        ) from error

    def drawn(indices: np.ndarray) -> np.ndarray:
        choose = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(source)))
        return source.read_labels(np.asarray(choose(_keys(seed, indices))))

    return drawn


def labels_of(indices: np.ndarray, labels: np.ndarray | None, facts: Facts, seed: int) -> np.ndarray:
    """Return the label of each sample: the given ones in turn, or classes drawn by their frequencies from the index."""
    if labels is not None:
        return labels[indices % len(labels)]
    frequencies = np.asarray(facts.class_frequencies, np.float32)
    return np.asarray(_classes(np.uint32(seed), np.asarray(indices, np.int32), frequencies))


@parallel.jit  # one program, and not one for each of its operations
def _classes(seed: jax.Array, indices: jax.Array, frequencies: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.categorical(key, jnp.log(frequencies)))(_keys(seed, indices))


def _keys(seed: Any, indices: Any) -> jax.Array:
    return sampler.keys(jax.random.fold_in(jax.random.key(seed), 1), indices)


def recorded(options: Sampling, run: runs.Run, labels: np.ndarray, given: bool) -> np.ndarray:
    """Return the labels as the file has them: -1, of vectors NaN, where the model was given none, or several classes."""
    if not (given or takes_labels(options, run)) or options.method.any_of:
        labels = np.full_like(labels, -1 if run.facts.labelling == "class" else np.nan)
    return np.where(np.isnan(labels), -1, labels).astype(np.int64) if run.facts.labelling == "labels" else labels


def of_file(facts: Facts, labels: np.ndarray | None) -> np.ndarray | None:
    """Return the labels of a file of samples as the run takes them, None where they are not its."""
    if labels is None or not len(labels):
        return None
    if facts.labelling == "class":
        fit = labels.ndim == 1 and labels.min() >= 0 and labels.max() < facts.num_classes
        return labels if fit else None
    if labels.shape[1:] != (facts.num_classes,):
        return None
    labels = labels.astype(np.float32)
    return np.where(labels < 0, np.nan, labels) if facts.labelling == "labels" else labels


def _unknown(facts: Facts, label: str) -> str:
    numbers = f"a number from 0 to {facts.num_classes - 1}"
    if not facts.class_names:
        return f"there is no class {label!r}; this run does not know the names of its classes, give {numbers}"
    rest = ", ..." if facts.num_classes > SHOWN else ""
    return f"there is no class {label!r}; there is {', '.join(facts.class_names[:SHOWN])}{rest}, or give {numbers}"
