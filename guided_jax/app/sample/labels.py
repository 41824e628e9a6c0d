"""Classes by number or by name: a request with the numbers that everything else works with."""

import dataclasses
import functools
import sys

from guided_jax.app.facts import Facts
from guided_jax.app.sample.request import Label, Sampling

SHOWN = 8  # names in an error message, at most


def resolve_labels(options: Sampling, facts: Facts) -> Sampling:
    """Return the request with the number of each class that it names; ValueError for a name that the run does not have."""
    number, method = functools.partial(number_of, facts), options.method
    labels = None if options.labels is None else tuple(map(number, options.labels))
    any_of, also = tuple(map(number, method.any_of)), tuple(map(number, method.also))
    negative = None if method.negative is None else number(method.negative)
    method = dataclasses.replace(method, any_of=any_of, also=also, negative=negative)
    return dataclasses.replace(options, labels=labels, method=method)


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


def _unknown(facts: Facts, label: str) -> str:
    numbers = f"a number from 0 to {facts.num_classes - 1}"
    if not facts.class_names:
        return f"there is no class {label!r}; this run does not know the names of its classes, give {numbers}"
    rest = ", ..." if facts.num_classes > SHOWN else ""
    return f"there is no class {label!r}; there is {', '.join(facts.class_names[:SHOWN])}{rest}, or give {numbers}"
