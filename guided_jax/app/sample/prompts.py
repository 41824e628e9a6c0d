"""The prompts of a request to a text-to-image run: each becomes a class of the run, numbered as they were given."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from guided_jax.app import run as runs
from guided_jax.app.sample.guidances import row_of
from guided_jax.app.sample.request import Sampling


def resolve_prompts(options: Sampling, run: runs.Run) -> tuple[Sampling, runs.Run]:
    """Return the request with the numbers of its prompts as labels, and the run whose classes they are.

    A negative prompt takes the place of the null condition, but for a guidance that reads --negative by itself. ValueError
    for prompts to a run of classes, for labels to one of prompts, and for none at all.
    """
    texts = read_prompts(options)
    if run.tokenize is None:
        if texts:
            raise ValueError("this run takes no prompts; name classes with --labels")
        return options, run
    if options.labels or options.balanced:
        raise ValueError(
            "this run takes prompts; name what to draw with --prompt, and leave out --labels and --balanced"
        )
    if not texts:
        raise ValueError("this run takes prompts; name what to draw with --prompt, or a file of them with --prompts")
    method, labels = options.method, tuple(range(len(texts)))
    texts += tuple(str(text) for text in (*method.also, *method.any_of))
    negative = None if method.negative is None else str(method.negative)
    if negative is not None and "negative" in row_of(method).reads:
        texts, negative = (*texts, negative), None
    elif negative is not None:
        method = dataclasses.replace(method, negative=None)
        run = run._replace(model=run.model._replace(null=_first(run.tokenize([negative]))))
    # What was asked for in words is recorded beside the samples; from here on everything else counts in numbers.
    options = dataclasses.replace(options, labels=labels, method=method, prompt=texts, prompts=None)
    return dataclasses.replace(options, negative_prompt=negative), with_classes(run, texts)


def read_prompts(options: Sampling) -> tuple[str, ...]:
    """Return the prompts of a request, those of its file last; ValueError for a file that is none."""
    if options.prompts is None:
        return options.prompt
    path = Path(options.prompts)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file of prompts, one on each line") from None
    found = tuple(line for line in lines if line)
    if not found:
        raise ValueError(f"{path} holds no prompt; write one on each line")
    return (*options.prompt, *found)


def with_classes(run: runs.Run, texts: tuple[str, ...]) -> runs.Run:
    """Return the text-to-image run with these texts as its classes."""
    assert run.tokenize is not None
    table = jax.tree.map(jnp.asarray, run.tokenize(texts))
    share = (1 / len(texts),) * len(texts)
    facts = run.facts._replace(num_classes=len(texts), class_names=texts, class_frequencies=share)
    return run._replace(facts=facts, raw=lambda label: jax.tree.map(lambda column: column[label], table))


def _first(tree: Any) -> Any:
    """Return the first row of a pytree of columns."""
    return jax.tree.map(lambda column: column[0], tree)
