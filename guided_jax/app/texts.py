"""Captions as what a network is given: the numbers of their words, or the states of a trained MiniLM.

    words    int32 (length,), from 1 in the order of the vocabulary, 0 where there is no word
    minilm   float32 (length, 384), NaN where there is no token

An empty text has neither words nor tokens, and stands for no condition.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import data, parallel
from guided_jax.pretrained import bert, readers, tokens

Encoder = Literal["none", "words", "minilm"]
WIDTH = 384  # of MiniLM's states
AT_ONCE = 256  # texts that MiniLM reads at once


class Texts(NamedTuple):
    """How captions become what a network is given.

    encoder: "words" or "minilm". length: words or tokens of a text at most; what is longer is cut. words: the vocabulary of
    the captions that were trained on, sorted.
    """

    encoder: Encoder
    length: int
    words: tuple[str, ...]

    @property
    def null(self) -> Any:
        """What an empty text becomes."""
        if self.encoder == "words":
            return np.zeros(self.length, np.int32)
        return np.full((self.length, WIDTH), np.nan, np.float32)

    @property
    def num_words(self) -> int | None:
        """The words that a network learns; None where it is given states."""
        return len(self.words) if self.encoder == "words" else None


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, without punctuation.

    >>> words_of("Zebra, twemoji style")
    ['zebra', 'twemoji', 'style']
    """
    return re.findall(r"[^\W_]+", text.lower())


def vocabulary(captions: Sequence[str]) -> tuple[str, ...]:
    """Return the words of captions, each once, sorted."""
    return tuple(sorted({word for caption in captions for word in words_of(caption)}))


def encode(texts: Texts, given: Sequence[str]) -> np.ndarray:
    """Return what texts become, (n, length) or (n, length, 384); words that are not in the vocabulary are left out.

    texts: how. given: the texts.
    """
    return (_encode_words if texts.encoder == "words" else _encode_states)(texts, given)


def _encode_words(texts: Texts, given: Sequence[str]) -> np.ndarray:
    number = {word: i for i, word in enumerate(texts.words, 1)}
    rows = [[number[word] for word in words_of(text) if word in number][: texts.length] for text in given]
    return np.array([row + [0] * (texts.length - len(row)) for row in rows], np.int32)


def _encode_states(texts: Texts, given: Sequence[str]) -> np.ndarray:
    states = np.full((len(given), texts.length, WIDTH), np.nan, np.float32)
    rows, read = [i for i, text in enumerate(given) if text.strip()], minilm(texts.length)
    rows.sort(key=lambda i: len(given[i]))  # so that texts of about the same length are read together
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        found = read([given[i] for i in part])
        states[part, : found.shape[1]] = found
    return states


@functools.cache
def minilm(length: int) -> Callable[[list[str]], np.ndarray]:
    """Return texts -> the last states of the trained MiniLM, (n, tokens, 384), NaN beyond the end of each.

    length: tokens of a text at most.
    ModuleNotFoundError without the extra "minilm".
    """
    folder = bert.minilm()
    network, params = bert.load(*readers.read_component(folder))
    tokenize, read = tokens.tokenizer(folder, length), parallel.jit(network.apply)

    def states(texts: list[str]) -> np.ndarray:
        ids, mask = map(np.asarray, tokenize(texts + [""] * (-len(texts) % 8)))
        used = min(length, -(-int(mask.sum(-1).max()) // 4) * 4)  # few shapes, so few programs
        ids, mask = ids[:, :used], mask[:, :used]
        return np.where(mask[..., None] > 0, read(params, ids, mask).last, np.nan)[: len(texts)]

    return states


def states_of(texts: Texts, given: Any) -> tuple[Any, Any]:
    """Return (states (*batch, length, width), mask (*batch, length)) of what texts became, for a text tower.

    texts: how they became it. given: it, (*batch, length) or (*batch, length, 384). The states of words are one-hot, and
    0 where there is none.
    """
    if texts.num_words is None:
        mask = ~jnp.isnan(given[..., 0])
        return jnp.where(mask[..., None], given, 0.0), mask
    return jax.nn.one_hot(given - 1, texts.num_words), given > 0


def unknown_words(words: Sequence[str], text: str) -> list[str]:
    """Return a note on each word of a text that was not trained on, with the nearest that were.

    >>> unknown_words(("giraffe", "zebra"), "a zebrra")
    ["'a' was not trained on", "'zebrra' was not trained on; near it: zebra"]
    """
    notes, known = [], set(words)
    for word in dict.fromkeys(words_of(text)):
        if word not in known:
            near = difflib.get_close_matches(word, words, 3, 0.7)
            notes.append(f"{word!r} was not trained on" + (f"; near it: {', '.join(near)}" if near else ""))
    return notes


def label_by(texts: Texts, source: data.Source) -> data.Source:
    """Return a source whose labels are what its captions become, beside the number of each different caption.

    texts: how captions become labels. source: of pictures with captions; ValueError for one without.
    """
    if source.captions is None:
        raise ValueError("these pictures have no captions; leave out --data.text, or give data with captions")
    table = encode(texts, source.captions)
    table = table if texts.encoder == "words" else table.astype(np.float16)  # half the memory
    numbers = data.caption_numbers(source.captions)

    def labels(rows: np.ndarray) -> np.ndarray:
        return table[rows] if texts.encoder == "words" else table[rows].astype(np.float32)

    def read(rows: np.ndarray, *draws: Any) -> data.Batch:
        return {**source.read(rows, *draws), "label": labels(rows), "caption": numbers[rows]}

    return dataclasses.replace(source, read=read, labels=labels, labelling="text", words=texts.words)
