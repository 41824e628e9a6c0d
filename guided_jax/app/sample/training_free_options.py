"""The options of training-free guidance that no other guidance reads: a section of the request."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainingFree:
    """How training-free guidance follows its criterion; the --scale multiplies both strengths."""

    rho: float = 0.25
    """training-free: strength of the gradient through the network; 0 leaves its backward pass out."""
    mu: float = 0.25
    """training-free: strength of the gradient at the predicted x_0, in each of --iterations."""
    smoothing: float = 0.001
    """training-free: the noise, over sigma, at which the criterion is evaluated."""
    smoothing_samples: int = 1
    """training-free: of that noise, of whose criteria the mean is taken."""
    recurrence: int = 1
    """training-free: how often each step is made."""
    weights: Literal["increase", "decrease", "constant"] = "increase"
    """training-free: how both strengths go on over the steps."""
