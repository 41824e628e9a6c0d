"""+anneal: noise in the condition at the start of a run, of the text, of the numbers, or of the embedding of a class."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guided_jax import guidance
from guided_jax.denoiser import Denoiser

TABLES = ("['label_emb']['embedding']", "['y_embedder']['embedding']")  # of the embeddings of classes


@dataclasses.dataclass(frozen=True)
class Annealing:
    """How the condition is annealed."""

    anneal_std: float = 0.25
    """+anneal: the standard deviation of the noise in the condition, where its own is about 1."""
    anneal_low: float = 0.6
    """+anneal: the share of the noise levels below which the condition is itself."""
    anneal_high: float = 0.9
    """+anneal: the share of the noise levels above which it is noise alone."""
    anneal_mix: float = 1.0
    """+anneal: 1 to bring the noisy condition back to the mean and deviation of the condition, 0 to leave it."""


def check(settings: Annealing, words: bool) -> None:
    """Raise ValueError for levels in the wrong order, and for a run that has no condition to put noise in.

    words: whether its condition is the numbers of words.
    """
    if not settings.anneal_low < settings.anneal_high:
        raise ValueError(
            f"--anneal-low is {settings.anneal_low:g} and --anneal-high {settings.anneal_high:g}; give a lower end below "
            "the upper one"
        )
    if words:
        raise ValueError("+anneal needs the states of a text, and this run is told the numbers of words; leave it out")


def check_tables(params: Any) -> None:
    """Raise ValueError for the params of a network of classes that have no one table of embeddings."""
    if sum(_is_table(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)) != 1:
        raise ValueError("this network has no table of the embeddings of its classes; leave out +anneal")


def annealed(settings: Annealing, parts: Any, make: Callable[..., Denoiser]) -> Denoiser:
    """Return `guidance.annealed` of an example.

    parts: the `Parts` of the example. make: (condition, params=None) -> denoiser, with these params of the network.
    """
    run, label, params = parts.run, parts.label, parts.params["diffusion"]
    condition = run.model.condition(params, run.raw(label))
    noisy: Any
    if run.text is not None and not isinstance(condition, dict):
        noisy, net = condition, make
    elif run.text is not None:
        noisy = {name: condition[name] for name in ("context", "pooled") if name in condition}
        net = lambda text: make({**condition, **text})  # noqa: E731
    elif run.facts.labelling != "class":  # `model.known_values`
        noisy, known = jnp.split(condition, 2)
        net = lambda values: make(jnp.concatenate([jnp.where(known > 0, values, 0), known]))  # noqa: E731
    else:
        noisy = _rows(params)[label]
        net = lambda row: make(condition, _with_row(params, label, row))  # noqa: E731
    given = settings.anneal_std, settings.anneal_low, settings.anneal_high, settings.anneal_mix
    return guidance.annealed(net, noisy, parts.key, run.model.levels.t[-1], *given)


def _is_table(path: Any) -> bool:
    return jax.tree_util.keystr(path).endswith(TABLES)


def _rows(params: Any) -> Any:
    """Return the table of the embeddings of classes."""
    return next(leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if _is_table(path))


def _with_row(params: Any, label: Any, row: Any) -> Any:
    """Return the params with another embedding of a class."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.at[label].set(row) if _is_table(path) else leaf, params
    )
