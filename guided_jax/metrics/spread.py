"""A number that was measured several times."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """mean and standard deviation (n - 1 below the root) of several measurements; std is nan for a single one."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """That of the values. ValueError when there is none."""
        if not len(values):
            raise ValueError("there is nothing to take the mean of")
        found = np.asarray(values, np.float64)
        return cls(float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else float("nan"))
