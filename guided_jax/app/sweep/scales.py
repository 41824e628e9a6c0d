"""The scales of a sweep, from the words of the command line."""

import math
import re

MOST = 200  # scales in one sweep


def parse(words: str) -> tuple[float, ...]:
    """Return the scales of LOW:HIGH, LOW:HIGH:STEP (both ends, if the steps meet the upper one), or A,B,C.

    They may follow "scale=". Raises ValueError for other words, and for a scale that is named twice.
    """
    name, _, spec = spell(words).partition("=")
    try:
        numbers = [float(word) for word in re.split("[:,]", spec)]
        separators = set(re.findall("[:,]", spec))
    except ValueError:
        numbers, separators = [], set()
    if name != "scale" or not numbers or not all(map(math.isfinite, numbers)) or separators == {":", ","}:
        raise ValueError(f"--sweep is {words!r}; give 0:8, 0:8:0.5 or 0,1,2.5")
    found = _steps(words, *numbers) if separators == {":"} else tuple(numbers)
    if len(set(found)) < len(found):
        raise ValueError(f"--sweep is {words!r}, which names a scale twice")
    return found


def spell(words: str) -> str:
    """Return the words with "scale=" before them, as requests are recorded."""
    return words if "=" in words else f"scale={words}"


def _steps(words: str, low: float, high: float, step: float = 1.0, *more: float) -> tuple[float, ...]:
    if more or step <= 0 or high <= low or (high - low) / step > MOST:
        raise ValueError(f"--sweep is {words!r}; give LOW:HIGH or LOW:HIGH:STEP, up to {MOST} steps above 0")
    # A little more than the last step, for what rounding takes away; then back to short decimals.
    return tuple(round(low + i * step, 10) for i in range(math.floor((high - low) / step + 1e-9) + 1))
