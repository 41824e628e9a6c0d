"""The measurements of `benchmarks.restoration`, and the methods that restore what was measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from guided_jax import guidance, operators, reverse, schedule
from guided_jax.app.sample import inverse
from guided_jax.forward import posterior_variance
from guided_jax.numerics import root


class Measured(NamedTuple):
    """A, and where it hides a pixel: 1 there and 0 elsewhere, None where every pixel is blurred."""

    operator: operators.Operator
    hidden: jax.Array | None = None


class Problem(NamedTuple):
    """A measurement y = A x_0 + noise_std n of pictures of data_std around their mean.

    norm: |A|. table: of all levels. hidden: as of `Measured`.
    """

    operator: operators.Operator
    y: jax.Array
    noise_std: float
    table: schedule.NoiseLevel
    data_std: float
    norm: float
    hidden: Any

    @property
    def given(self) -> tuple[Any, ...]:
        """A, y and noise_std."""
        return self.operator, self.y, self.noise_std


class Method(NamedTuple):
    """(denoise, problem, *knobs) -> (denoiser, step); passes of the network at each level; the settings to choose from.

    says: a setting in words. clips_after: whether x_0 is clipped after the guidance, and not before it. fills: whether it
    fills holes only.
    """

    make: Callable[..., Any]
    forward: int = 1
    backward: int = 0
    settings: tuple[tuple[float, ...], ...] = ((),)
    says: str = ""
    clips_after: bool = False
    fills: bool = False

    def calls(self, passes: int) -> str:
        """Return the forward and backward passes of a sample, in words."""
        levels = max(passes // (self.forward + self.backward), 1)
        return f"{levels * self.forward} F" + (f", {levels * self.backward} B" if self.backward else "")


def right_half(shape: tuple[int, ...]) -> Measured:
    """Inpainting."""
    seen = inverse.observed("right", shape)
    return Measured(operators.mask(seen), 1 - seen)


MEASUREMENTS = {
    "right half hidden": right_half,
    "means of 2x2": lambda shape: Measured(operators.average_pool(2)),
    "blur": lambda shape: Measured(operators.gaussian_blur(*shape[:2], max(shape[0] / 16, 1.0))),
}


def daps(denoise: Any, problem: Problem, size: Any, std: Any) -> Any:
    """r is that of white data of deviation std: sigma / alpha, the paper's, for a large one."""
    log_prob = guidance.likelihood(*problem.given)
    spread = lambda level: root(posterior_variance(level, std))  # noqa: E731
    curvature = (problem.norm / problem.noise_std) ** 2
    return denoise, reverse.daps(log_prob, problem.table, curvature, calls=5, size=size, spread=spread)


METHODS = {
    "none": Method(lambda d, p: (d, reverse.ddim(1.0)), says="eta 1"),
    "`guidance.pigdm`": Method(
        lambda d, p: (guidance.pigdm(d, *p.given, p.data_std), reverse.ddim(1.0)), 1, 1, says="eta 1", clips_after=True
    ),
    "`guidance.mmps`, 1 iteration": Method(
        lambda d, p: (guidance.mmps(d, *p.given, 1), reverse.ddim(1.0)), 1, 1, says="eta 1", clips_after=True
    ),
    "`guidance.mmps`, 3 iterations": Method(
        lambda d, p: (guidance.mmps(d, *p.given, 3), reverse.ddim(1.0)), 1, 3, says="eta 1", clips_after=True
    ),
    "`reverse.dps`": Method(
        lambda d, p, scale: (d, reverse.dps(reverse.ddim(1.0), p.operator, p.y, scale)),
        1,
        1,
        ((0.3,), (1.0,), (3.0,)),
        "scale {:g}, eta 1",
    ),
    "`reverse.ddnm`": Method(
        lambda d, p, eta: (d, reverse.ddnm(*p.given, eta)), settings=((0.85,), (1.0,)), says="eta {:g}"
    ),
    "`reverse.diffpir`": Method(
        lambda d, p, weight, zeta: (d, reverse.diffpir(*p.given, weight, zeta)),
        settings=((1.0, 0.3), (7.0, 0.3), (3.0, 0.1), (1.0, 1.0)),
        says="prior_weight {:g}, zeta {:g}",
    ),
    "`reverse.daps`": Method(daps, 5, 0, ((0.1, 1e6), (0.5, 1e6), (0.5, 0.5)), "size {:g}, r of std {:g}"),
    "`reverse.split_gibbs`": Method(
        lambda d, p: (d, reverse.split_gibbs(*p.given, p.table, 10)), 10, 0, ((),), "10 calls"
    ),
    "`reverse.repaint`": Method(
        lambda d, p: (d, reverse.repaint(reverse.ddim(1.0), 1 - p.hidden, p.y, 10)), 10, says="10 repeats", fills=True
    ),
}
