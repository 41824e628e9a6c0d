"""The summary of a set of pictures that all metrics are computed from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from guided_jax.metrics import frechet
from guided_jax.metrics.features import Features
from guided_jax.metrics.frechet import Moments


class Summary(NamedTuple):
    """Features (n, d) and logits (n, k) in memory, float32; moments in float64; labels, None where none are known."""

    features: Float[np.ndarray, "n d"]
    moments: Moments
    spatial: Moments | None = None
    logits: Float[np.ndarray, "n k"] | None = None
    labels: Int[np.ndarray, " n"] | None = None


def summarize(chunks: Iterable[Features], labels: Int[np.ndarray, " n"] | None = None) -> Summary:
    """Return the features of all chunks and their moments; of spatial features only the moments are kept.

    ValueError when there is no picture, and for features that are not finite.
    """
    pool, logits, moments, spatial = [], [], None, None
    for chunk in chunks:
        pool.append(chunk.pool)
        moments = frechet.add(moments, chunk.pool)
        if chunk.spatial is not None:
            spatial = frechet.add(spatial, chunk.spatial)
        if chunk.logits is not None:
            logits.append(chunk.logits)
    if moments is None:
        raise ValueError("there are no pictures to measure")
    return Summary(np.concatenate(pool), moments, spatial, np.concatenate(logits) if logits else None, labels)


class MeanStd(NamedTuple):
    """Mean and standard deviation (with n - 1) of several numbers; std is nan for a single one."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanStd":
        """Return the mean and standard deviation of the values. ValueError when there is none."""
        if not len(values):
            raise ValueError("the mean of no values does not exist; give at least one")
        found = np.asarray(values, np.float64)
        return cls(float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else float("nan"))
