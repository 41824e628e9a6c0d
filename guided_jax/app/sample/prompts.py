"""The prompts of a request to a text-to-image run: each becomes a class of the run, numbered as they were given."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.app import run as runs
from guided_jax.app.published_model import TextModel
from guided_jax.app.sample import named_pictures, prompt_files
from guided_jax.app.sample.guidances import reads_negative, row_of
from guided_jax.app.sample.prompt_files import Row
from guided_jax.app.sample.request import HELD_OUT, Sampling, option
from guided_jax.app.sample.text_options import Text
from guided_jax.pretrained.published import Prompt, States


def resolve_prompts(options: Sampling, run: runs.Run) -> tuple[Sampling, runs.Run]:
    """Return the request with the numbers of its prompts as labels, and the run whose classes they are.

    A negative prompt takes the place of the null condition. ValueError for prompts to a run of classes, for labels to one
    of prompts, and for none at all.
    """
    if run.text is None:
        if options.prompt or options.prompts:
            raise ValueError("this run takes no prompts; name classes with --labels")
        return options, run
    if options.labels or options.balanced or options.method.any_of:
        raise ValueError(
            "this run takes prompts; name what to draw with --prompt, and leave out --labels, --balanced and --any-of"
        )
    rows = prompt_files.read(options, run.text.widths)
    if not rows:
        raise ValueError("this run takes prompts; name what to draw with --prompt, or a file of them with --prompts")
    if options.method.image not in ((), (HELD_OUT,)) and options.text.size is None:
        options = dataclasses.replace(options, text=dataclasses.replace(options.text, size=_size_of(options, run)))
    labels, rows = tuple(range(len(rows))), rows + [Row(str(text)) for text in options.method.also]
    method = dataclasses.replace(options.method, also=tuple(range(len(labels), len(rows))), negative=None)
    rows = [row._replace(negative=_negative(row, options)) for row in rows]
    _check(options, run, rows)
    run = with_prompts(run, rows, options.text)
    if run.bad is not None and run.bad.text is not None:
        run = run._replace(bad=with_prompts(run.bad, rows, options.text))
    # What was asked for in words is recorded beside the samples; from here on everything else counts in numbers.
    return dataclasses.replace(
        options,
        labels=labels,
        method=method,
        prompt=tuple(row.prompt for row in rows),
        prompts=None,
        negative_prompt=_column(rows, "negative"),
        prompt_scale=_column(rows, "scale"),
        prompt_seed=_column(rows, "seed"),
    ), run


def _size_of(options: Sampling, run: runs.Run) -> tuple[int, int]:
    """Return the height and width of the first picture of --image, those of the run where its file holds none."""
    shape = run.facts.image_shape
    found = named_pictures.read_file(Path(options.method.image[0]), shape[-1], "--image")
    height, width, _ = found[0].shape if found else shape
    return height, width


def _negative(row: Row, options: Sampling) -> str | None:
    """Return the negative prompt beside a prompt, its own or that of the request; None for none."""
    shared = None if options.method.negative is None else str(options.method.negative)
    return shared if row.negative is None else row.negative


def _column(rows: Sequence[Row], name: str) -> tuple[Any, ...]:
    """Return a field of all prompts; () where none has it."""
    found = tuple(getattr(row, name) for row in rows)
    return () if all(value is None for value in found) else found


def _check(options: Sampling, run: runs.Run, rows: Sequence[Row]) -> None:
    """Raise ValueError for what the run, or that of --bad, is not told, or does not have; rows: of all prompts."""
    given, defaults = options.text, Text()
    _check_states(options, run, rows)
    for text in [each.text for each in (run, run.bad) if each is not None and each.text is not None]:
        _check_text(options, text)
    told = [name for name in vars(given) if name.endswith(("original_size", "crop", "target_size"))]
    wrong = [name for name in told if getattr(given, name) != getattr(defaults, name)]
    if wrong and run.text is not None and not run.text.takes_sizes:
        raise ValueError(f"this run is not told the sizes of pictures, as XL is; leave out {option(wrong[0])}")
    if any(row.negative is not None for row in rows) and not reads_negative(options.method):
        raise ValueError(
            f"--guidance {options.method.guidance} has no negative prompt; leave it out, or use classifier-free"
        )
    if "negative" in row_of(options.method).needs and any(row.negative is None for row in rows):
        raise ValueError(f"--guidance {options.method.guidance} goes away from a prompt; name it by --negative")
    if any(row.scale is not None for row in rows) and not row_of(options.method).scaled:
        raise ValueError(f"--prompts has scales, which --guidance {options.method.guidance} ignores; leave them out")


def _check_text(options: Sampling, text: TextModel) -> None:
    """Raise ValueError for more layers to leave out than a text tower has, and for a size that no latents have."""
    skip, size = options.text.clip_skip, options.text.size
    if skip > text.depth - 1 - text.takes_sizes:
        raise ValueError(f"--clip-skip is {skip}, and the text tower has {text.depth} layers; give fewer")
    if size is not None and any(side % text.factor for side in size):
        what = "--image has a picture of" if options.method.image else "--size is"
        raise ValueError(f"{what} {size[0]}x{size[1]}; give multiples of {text.factor}")


def _check_states(options: Sampling, run: runs.Run, rows: Sequence[Row]) -> None:
    """Raise ValueError for states of a file beside prompts in words, and for what only prompts in words have."""
    if all(row.states is None for row in rows):
        return
    if any(row.states is None for row in rows):
        raise ValueError("--prompts has states, beside which no prompts can stand; leave out --prompt and --also")
    if options.text.weighted:
        raise ValueError("--prompts has states, which are not weighed; leave out --weighted")
    if options.text.clip_skip:
        raise ValueError("--prompts has states, of which no layers can be left out; leave out --clip-skip")
    if run.bad is not None and run.bad.text is not None and run.text is not None:
        widths, other = run.text.widths, run.bad.text.widths
        if widths != other:
            raise ValueError(
                f"--prompts has states of width {widths}, and the run of --bad reads {other}; give prompts in words"
            )


def with_prompts(run: runs.Run, rows: Sequence[Row], options: Text) -> runs.Run:
    """Return the text-to-image run with these prompts as its classes, drawing pictures of the size that is asked for."""
    text = run.text
    assert text is not None
    height, width = size = options.size or run.facts.image_shape[:2]
    texts = tuple(row.prompt for row in rows)
    facts = run.facts._replace(
        image_shape=(*size, run.facts.image_shape[-1]),
        labelling="class",
        num_classes=len(rows),
        class_names=texts,
        class_frequencies=(1 / len(rows),) * len(rows),
    )
    model = run.model._replace(shape=(height // text.factor, width // text.factor, run.model.shape[-1]))
    prompts = _positive(text, rows, options, size)
    classifier = None if text.classifier is None else text.classifier(prompts)
    null = _rows(_null(text, rows, options, size))
    return run._replace(facts=facts, model=model, raw=_rows(prompts), null=null, classifier=classifier)


def _positive(text: TextModel, rows: Sequence[Row], options: Text, size: tuple[int, int]) -> Prompt:
    """Return the prompts, a row each."""
    if rows[0].states is not None:
        one = jnp.ones(len(rows))
        states = jax.tree.map(lambda *each: jnp.asarray(np.stack(each)), *(States(*(row.states or ())) for row in rows))
        prompts = Prompt(keep=one, skip=0 * one.astype(int), states=states)
    else:
        prompts = text.tokenize([row.prompt for row in rows], options.weighted, options.windows)
    prompts = prompts._replace(skip=prompts.skip + options.clip_skip)
    told = (options.original_size or size, options.crop, options.target_size or size)
    return _with_sizes(prompts, told, text)


def _null(text: TextModel, rows: Sequence[Row], options: Text, size: tuple[int, int]) -> Prompt:
    """Return the negative prompt beside each prompt, or an empty one, or zeros as XL has them."""
    prompts = text.tokenize([row.negative or "" for row in rows], options.weighted, options.windows)
    if text.zero_null:
        prompts = prompts._replace(keep=jnp.array([float(row.negative is not None) for row in rows]))
    told = (
        options.negative_original_size or options.original_size or size,
        options.negative_crop or options.crop,
        options.negative_target_size or options.target_size or size,
    )
    return _with_sizes(prompts, told, text)


def _with_sizes(prompts: Prompt, told: tuple[tuple[int, int], ...], text: TextModel) -> Prompt:
    """Return the prompts with the six numbers that XL is told: height and width, top and left, height and width."""
    if not text.takes_sizes:
        return prompts
    sizes = jnp.asarray(sum(told, ()), jnp.float32)
    return prompts._replace(sizes=jnp.broadcast_to(sizes, (len(prompts.keep), 6)))


def _rows(table: Prompt) -> Any:
    """Return label -> its row of a table of prompts."""
    return lambda label: jax.tree.map(lambda column: column[label], table)
