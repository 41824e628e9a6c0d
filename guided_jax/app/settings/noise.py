"""The noise levels, the weight of the loss at each, and the law by which training chooses them."""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp

from guided_jax import schedule
from guided_jax.losses import times, weighting


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise levels, shared by both networks."""

    name: Literal["linear", "cosine"] = "cosine"
    num_steps: int = 1000
    """Noise levels from clean to noise."""
    zero_terminal_snr: bool = False
    """Rescale so that the last level is pure noise; for x_0 and v, since an eps network says nothing of x_0 there."""

    def make(self) -> schedule.NoiseLevel:
        """Return the levels."""
        levels = {"linear": schedule.linear, "cosine": schedule.cosine}[self.name](self.num_steps)
        return schedule.zero_terminal_snr(levels) if self.zero_terminal_snr else levels


@dataclasses.dataclass(frozen=True)
class Weighting:
    """The weight of the loss at each level."""

    name: Literal["none", "min-snr", "p2", "sigmoid", "edm"] = "none"
    """none: the plain mean square of what the network predicts."""
    min_snr_gamma: float = 5.0
    """min-snr: min(SNR, gamma) on the loss of x_0."""
    p2_gamma: float = 1.0
    """p2: 1 / (k + SNR)^gamma on the loss of eps."""
    p2_k: float = 1.0
    """p2: k of it."""
    sigmoid_bias: float = 2.0
    """sigmoid: s(bias - log SNR) on the loss of eps, per unit of log SNR."""
    sigma_data: float = 0.5
    """edm: SNR + 1 / sigma_data^2 on the loss of x_0."""

    def make(self, levels: schedule.NoiseLevel, target: str) -> weighting.Weight | None:
        """Return the function level -> weight of the loss of the target; None for the plain loss."""
        if self.name == "none":
            return None
        of_x_0: dict[str, weighting.LogWeight] = {
            "min-snr": functools.partial(weighting.min_snr, gamma=self.min_snr_gamma),
            "p2": functools.partial(weighting.p2, gamma=self.p2_gamma, k=self.p2_k),
            "sigmoid": functools.partial(weighting.sigmoid, bias=self.sigmoid_bias),
            "edm": functools.partial(weighting.edm, sigma_data=self.sigma_data),
        }
        density = weighting.per_log_snr(levels) if self.name == "sigmoid" else lambda level: jnp.ones_like(level.t)
        return lambda level: density(level) * weighting.of_loss(of_x_0[self.name], level, target)


@dataclasses.dataclass(frozen=True)
class Times:
    """The law by which training chooses the step of each example."""

    law: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0
    """logit-normal: of log(t / (T - t)); above 0 nearer to noise."""
    std: float = 1.0
    """logit-normal: the smaller, the nearer to the middle."""
    stratified: bool = False
    """Example i of a batch of B draws from the i-th of B equal parts of the law."""

    def make(self) -> times.Law | None:
        """Return the quantile function u -> t / T; None for the uniform law."""
        return None if self.law == "uniform" else functools.partial(times.logit_normal, mean=self.mean, std=self.std)
