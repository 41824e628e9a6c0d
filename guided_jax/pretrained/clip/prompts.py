"""Weights of parts of a prompt, `(word:1.3)`: read from the text, and multiplied to the states of the text tower.

The rules are those of AUTOMATIC1111's web interface, whose prompts people exchange; its word BREAK means nothing here.
"""

import re

import jax.numpy as jnp
from jaxtyping import Array, Float

ROUND, SQUARE = 1.1, 1 / 1.1  # what a pair of brackets without a number multiplies by
# An escaped sign, a weight before its bracket, a bracket, or other text.
SIGNS = re.compile(r"\\[()\[\]\\]|:\s*([+-]?[.\d]+)\s*\)|[()\[\]]|[^\\()\[\]:]+|[\\:]")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Return the parts (text, weight) of a prompt, in order; one part without text for an empty prompt.

    (text) is weighed 1.1, ((text)) 1.21, [text] 1 / 1.1, (text:1.3) 1.3; brackets within brackets multiply. A bracket that
    is never closed holds to the end; one that closes nothing is text. \( \) \[ \] and \\ are the signs themselves.

    >>> parse_weights("a (red:1.5) [old] house")
    [('a ', 1.0), ('red', 1.5), (' ', 1.0), ('old', 0.9090909090909091), (' house', 1.0)]
    >>> parse_weights(r"a \(literal\) (word")
    [('a (literal) ', 1.0), ('word', 1.1)]
    """
    parts: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # how many parts there were before each bracket that is open
    for match in SIGNS.finditer(prompt):
        sign, weight = match[0], match[1]
        if sign in opened:
            opened[sign].append(len(parts))
        elif sign == "]" and opened["["]:
            _multiply(parts, opened["["].pop(), SQUARE)
        elif (weight is not None or sign == ")") and opened["("]:
            _multiply(parts, opened["("].pop(), ROUND if weight is None else _number(weight))
        else:
            parts.append((sign[1:] if sign[0] == "\\" and sign[1:] else sign, 1.0))
    for sign, factor in (("(", ROUND), ("[", SQUARE)):
        for start in opened[sign]:
            _multiply(parts, start, factor)
    return _merge(parts) or [("", 1.0)]


def _multiply(parts: list[tuple[str, float]], start: int, factor: float) -> None:
    parts[start:] = [(text, weight * factor) for text, weight in parts[start:]]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"the prompt has the weight {text!r}, which is not a number; write one such as (word:1.3)."
        ) from None


def _merge(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the parts with neighbours of one weight as one."""
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


def weigh(
    states: Float[Array, "*batch length width"], weights: Float[Array, "*batch length"], keep_mean: bool = True
) -> Float[Array, "*batch length width"]:
    """z = weights * states; times mean(states) / mean(z), means over one window, unless `keep_mean` is False.

    states: of the text tower, for the ids that the weights go with; before windows are put one after the other.

    >>> weigh(jnp.ones((2, 2)), jnp.array([1.0, 3.0])).tolist()
    [[0.5, 0.5], [1.5, 1.5]]
    """
    z = states * weights[..., None]
    if not keep_mean:
        return z
    before, after = (each.mean((-2, -1), keepdims=True) for each in (states, z))
    return z * jnp.where(after == 0, 1, before / jnp.where(after == 0, 1, after))
