"""How well pictures show their prompts: the CLIP score, and how often a picture retrieves its own prompt.

    cos_ij = u_i . v_j / (|u_i| |v_j|)     u_i: picture i, v_j: prompt j, both in the space of one CLIP

Sources: [CLIPScore] Hessel et al. 2104.08718 section 3, with the factor of common practice; [R-precision] Xu et al.
1711.10485 section 4, with all prompts of the set as candidates in place of 100 random ones. float64 on the host.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

BLOCK = 2**24  # cosines in memory at a time: 128 MB
FACTOR = 100.0
EQUAL = 1e-12  # cosines that are nearer than this are equal: float64 rounds a sum of 1000 products by less


class Score(NamedTuple):
    """The mean of a value of each picture, its standard error (nan of a single one), and the values."""

    mean: float
    error: float
    values: Float[np.ndarray, " n"]


class Retrieval(NamedTuple):
    """The share of pictures whose own prompt is among the k nearest.

    score: the share, each picture's value from 0 to 1. chance: the share of a random order of the prompts. floor: its
    standard error, so that shares within two of it from `chance` say nothing.
    """

    score: Score
    chance: float
    floor: float


def clip_score(image_features: Num[np.ndarray, "n d"], text_features: Num[np.ndarray, "n d"]) -> Score:
    """100 max(cos(u_i, v_i), 0) of each picture and its prompt, and their mean ([CLIPScore] section 3).

    image_features, text_features: a row for each picture. The paper multiplies by 2.5, to fill 0 to 1, and begins each
    caption with "A photo depicts"; tables of text-to-image models have 100 and the bare prompt, as torchmetrics has, and so
    it is here. torchmetrics cuts the mean at 0, not each value: the same number unless a cosine is negative.

    >>> clip_score(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, -1.0]])).values
    array([60.,  0.])
    """
    u, v = _unit(image_features, "image"), _unit(text_features, "text")
    if u.shape != v.shape:
        raise ValueError(f"image features are {u.shape} and text features {v.shape}; give a text for each image")
    return _score(FACTOR * np.maximum((u * v).sum(1), 0))


def mismatched_clip_score(
    image_features: Num[np.ndarray, "n d"], text_features: Num[np.ndarray, "m d"], labels: Int[np.ndarray, " n"]
) -> Score:
    """The mean over j other than y_i of 100 max(cos(u_i, v_j), 0) of each picture: the CLIP score of the wrong prompts.

    It is what the CLIP score would be of pictures that have nothing to do with their prompts. Arguments and errors are
    those of `retrieval`; of one prompt alone there is no wrong one, which is a ValueError too.
    """
    u, v, labels = _check(image_features, text_features, labels)
    if len(v) < 2:
        raise ValueError("the score of the wrong prompts needs two prompts or more")
    values = []
    for rows, cosines in _blocks(u, v):
        scores = FACTOR * np.maximum(cosines, 0)
        values.append((scores.sum(1) - scores[np.arange(len(scores)), labels[rows]]) / (len(v) - 1))
    return _score(np.concatenate(values))


def retrieval(
    image_features: Num[np.ndarray, "n d"],
    text_features: Num[np.ndarray, "m d"],
    labels: Int[np.ndarray, " n"],
    k: Sequence[int] = (1, 5),
) -> dict[int, Retrieval]:
    """Return {k: `Retrieval`}: how often prompt y_i is among the k of all m prompts with the greatest cos(u_i, v_j).

    image_features: u. text_features: v, each prompt once. labels: y, the number of each picture's prompt. Of equal cosines
    each order is as likely: with g prompts nearer than y_i and e as near, y_i itself included, the picture counts
    min(max(k - g, 0) / e, 1). By chance it is k / m. ValueError for labels beyond the prompts, and for features of another
    length, of zeros or that are not finite.

    >>> found = retrieval(np.eye(3), np.eye(3), np.array([0, 1, 0]), k=(1,))[1]
    >>> found.score.values, round(found.chance, 3)
    (array([1., 1., 0.]), 0.333)
    """
    u, v, labels = _check(image_features, text_features, labels)
    nearer, equal = (np.empty(len(u)) for _ in range(2))
    for rows, cosines in _blocks(u, v):
        ahead = cosines - cosines[np.arange(len(cosines)), labels[rows]][:, None]
        nearer[rows], equal[rows] = (ahead > EQUAL).sum(1), (np.abs(ahead) <= EQUAL).sum(1)
    found = {}
    for each in k:
        if each < 1:
            raise ValueError(f"k is {each}; give at least 1")
        chance = min(each / len(v), 1.0)
        floor = float(np.sqrt(chance * (1 - chance) / len(u)))
        found[each] = Retrieval(_score(np.clip((each - nearer) / equal, 0, 1)), chance, floor)
    return found


def _check(image_features, text_features, labels):
    u, v, labels = _unit(image_features, "image"), _unit(text_features, "text"), np.asarray(labels)
    if u.shape[1] != v.shape[1]:
        raise ValueError(f"image features have {u.shape[1]} numbers and text features {v.shape[1]}; take one CLIP's")
    if labels.shape != (len(u),) or not 0 <= labels.min() <= labels.max() < len(v):
        raise ValueError(
            f"labels number the {len(v)} texts from 0, one for each of {len(u)} images; these are {labels}"
        )
    return u, v, labels


def _unit(features: Num[np.ndarray, "n d"], what: str) -> Float[np.ndarray, "n d"]:
    """Return the features at length 1, float64; ValueError where they have no direction."""
    features = np.asarray(features, np.float64)
    norms = np.sqrt((features**2).sum(-1))
    if features.ndim != 2 or not len(features) or not np.all(np.isfinite(norms) & (norms > 0)):
        raise ValueError(f"{what} features are (n, d), all of them finite and no row of zeros; these are not")
    return features / norms[:, None]


def _blocks(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (a slice of rows, their products with all columns)."""
    size = max(1, BLOCK // len(columns))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield slice(start, start + len(part)), part @ columns.T


def _score(values: Float[np.ndarray, " n"]) -> Score:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Score(float(values.mean()), float(error), values)
