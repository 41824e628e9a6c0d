"""What is kept of a set of pictures once its features have passed by."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from guided_jax.metrics import frechet
from guided_jax.metrics.features import Features
from guided_jax.metrics.frechet import Moments


class Summary(NamedTuple):
    """features and logits in memory, float32; the moments in float64. `labels` are those asked for, if any are known."""

    features: Float[np.ndarray, "n d"]
    moments: Moments
    spatial: Moments | None = None
    logits: Float[np.ndarray, "n k"] | None = None
    labels: Int[np.ndarray, " n"] | None = None


def summarize(chunks: Iterable[Features], labels: Int[np.ndarray, " n"] | None = None) -> Summary:
    """The features of all chunks, and moments accumulated on the way; spatial features are only summed up.

    ValueError when there is no picture.
    """
    pool, logits, moments, spatial = [], [], None, None
    for chunk in chunks:
        pool.append(chunk.pool)
        moments = _more(moments, chunk.pool)
        if chunk.spatial is not None:
            spatial = _more(spatial, chunk.spatial)
        if chunk.logits is not None:
            logits.append(chunk.logits)
    if moments is None:
        raise ValueError("there are no pictures to measure")
    return Summary(np.concatenate(pool), moments, spatial, np.concatenate(logits) if logits else None, labels)


def _more(moments, features):
    found = frechet.measure(features)
    return found if moments is None else frechet.merge(moments, found)


class MeanStd(NamedTuple):
    """mean and standard deviation (n - 1 below the root) of several measurements; std is nan for a single one."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanStd":
        """That of the values. ValueError when there is none."""
        if not len(values):
            raise ValueError("there is nothing to take the mean of")
        found = np.asarray(values, np.float64)
        return cls(float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else float("nan"))
