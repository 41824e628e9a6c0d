"""The settings of `sample.py --sweep`: at which scales to draw, and what to measure the samples by."""

import dataclasses
import math
import re
from pathlib import Path

from guided_jax.app.sample.inverse import HELD_OUT

TRAIN = "train"
MOST = 200  # scales in one sweep


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Draw at several scales and seeds, measure the samples, and make one page of it, sweep.html."""

    sweep: str | None = None
    """The scales: scale=0:8 for 0, 1 .. 8, scale=0:8:0.5 in steps of 0.5, or scale=0,1,2.5."""
    sweep_seeds: int = 3
    """How many seeds at each scale, from --seed on: the spread over them is shown."""
    reference: str = HELD_OUT
    """What samples are measured against: held-out or train (the run's own data), or an npz file as samples.npz."""
    judge: Path | None = None
    """A clean classifier by 'guided-jax judge', of which class accuracy and features come; RUN/judge if not given.
    It is trained first, on the run's own data, where there is none."""
    inception: Path | None = None
    """Measure in the features of Inception-v3 with these weights (.pt, .pth, .safetensors, .npz), not in the judge's."""

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales asked for; ValueError for words that name none."""
        return values(self.sweep or "")


def values(words: str) -> tuple[float, ...]:
    """The numbers of scale=LOW:HIGH, scale=LOW:HIGH:STEP (both ends, if the steps meet the upper one), or scale=A,B,C."""
    name, _, spec = words.partition("=")
    try:
        numbers = [float(word) for word in re.split("[:,]", spec)]
        separators = set(re.findall("[:,]", spec))
    except ValueError:
        numbers, separators = [], set()
    if name != "scale" or not numbers or not all(map(math.isfinite, numbers)) or separators == {":", ","}:
        raise ValueError(f"--sweep is {words!r}; give scale=0:8, scale=0:8:0.5 or scale=0,1,2.5")
    found = _steps(words, *numbers) if separators == {":"} else tuple(numbers)
    if len(set(found)) < len(found):
        raise ValueError(f"--sweep is {words!r}, which names a scale twice")
    return found


def _steps(words: str, low: float, high: float, step: float = 1.0, *more: float) -> tuple[float, ...]:
    if more or step <= 0 or high <= low or (high - low) / step > MOST:
        raise ValueError(f"--sweep is {words!r}; give LOW:HIGH or LOW:HIGH:STEP, up to {MOST} steps above 0")
    # A little more than the last step, for what rounding takes away; then back to short decimals.
    return tuple(round(low + i * step, 10) for i in range(math.floor((high - low) / step + 1e-9) + 1))
