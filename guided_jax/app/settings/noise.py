"""The noise levels, the weight of the loss at each, and the law by which training chooses them."""

import dataclasses
import functools
import math
from typing import Literal

import jax.numpy as jnp

from guided_jax import schedule
from guided_jax.losses import times, weighting


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise levels, shared by both networks."""

    name: Literal["linear", "cosine", "sigmoid", "flow", "karras", "geometric"] = "cosine"
    """linear, cosine, sigmoid: alpha^2 + sigma^2 = 1. flow: alpha + sigma = 1, pure noise at the end; for flow, v and x_0.
    karras, geometric: alpha = 1, sigma from sigma_min to sigma_max; for score, eps, flow and x_0."""
    num_steps: int = 1000
    """Noise levels from clean to noise."""
    zero_terminal_snr: bool = False
    """Rescale so that the last level is pure noise; for x_0, v and flow, since an eps or score network says nothing of x_0
    there."""
    sigma_min: float = 0.002
    """karras, geometric: sigma of the first noisy level."""
    sigma_max: float = 80.0
    """karras, geometric: sigma of the last level."""
    rho: float = 7.0
    """karras: sigma^(1 / rho) rises evenly; geometric: log sigma does."""

    def make(self) -> schedule.NoiseLevel:
        """Return the levels."""
        if self.exploding:
            rho = math.inf if self.name == "geometric" else self.rho
            return schedule.karras(self.num_steps, self.sigma_min, self.sigma_max, rho)
        named = {
            "linear": schedule.linear,
            "cosine": schedule.cosine,
            "sigmoid": schedule.sigmoid,
            "flow": schedule.flow,
        }
        levels = named[self.name](self.num_steps)
        return schedule.zero_terminal_snr(levels) if self.zero_terminal_snr else levels

    @property
    def exploding(self) -> bool:
        """Return whether alpha = 1 at every level, so that x_t is as large as sigma: VE."""
        return self.name in ("karras", "geometric")


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
