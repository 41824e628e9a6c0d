"""The levels that a shorter run visits, by the rules of [ADM] Dhariwal & Nichol 2105.05233, and by those of diffusers."""

import operator

import jax.numpy as jnp
import numpy as np

from guided_jax.numerics import is_traced
from guided_jax.schedule.level import NoiseLevel


def respace(levels: NoiseLevel, spec: int | str | list[int] | tuple[int, ...]) -> NoiseLevel:
    """Return the levels that a shorter run visits, by [ADM]'s rules; the clean level is kept and t stays the original step.

    levels: the full table.
    spec: 50 or "50" (50 steps, evenly, both ends among them), "ddim50" (a constant stride from the first step),
        "10,15,20" or [10, 15, 20] (so many from each of three equal sections).
    Raises ValueError for any other spec, and for more steps than the table, or a section, has.

    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 5)
    >>> [int(t) for t in levels.t]
    [0, 1, 251, 501, 750, 1000]
    """
    num_steps = len(levels.t) - 1
    if isinstance(spec, str) and spec.strip().startswith("ddim"):
        steps = _strided(num_steps, spec)
    else:
        steps = _sectioned(num_steps, _counts(spec))
    rows = np.append(0, np.asarray(steps, int) + 1)
    # By NumPy where it can: eagerly, JAX would compile five programs for each pair of lengths.
    array = jnp.asarray if is_traced(levels) else np.asarray
    return NoiseLevel(*(jnp.asarray(array(column)[rows]) for column in levels))


def spaced(levels: NoiseLevel, num_steps: int, spacing: str = "leading", offset: int = 0) -> NoiseLevel:
    """Return the levels that a run of diffusers' schedulers visits, with the clean level.

    levels: the full table of T noisy levels; row t of a scheduler's arrays is the level of step t + 1.
    num_steps: n, from 1 to T.
    spacing: "leading", rows k (T // n) + offset for k = 0 .. n - 1; "trailing", round(T - k T / n) - 1, which begins at the
        last row; "linspace", both ends and evenly between, rounded.
    offset: of "leading": `steps_offset` of the scheduler's config.
    Raises ValueError for another spacing, and for more steps than there are.
    Source: Lin et al. 2305.08891 table 2.

    >>> [int(t) for t in gj.schedule.spaced(gj.schedule.linear(1000), 4, "leading", offset=1).t]
    [0, 2, 252, 502, 752]
    """
    total = len(levels.t) - 1
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps is {num_steps}; give a number from 1 to {total}")
    if spacing == "leading":
        rows = np.arange(num_steps) * (total // num_steps) + offset
    elif spacing == "trailing":
        rows = np.round(total - np.arange(num_steps) * (total / num_steps))[::-1].astype(int) - 1
    elif spacing == "linspace":
        rows = np.round(np.linspace(0, total - 1, num_steps)).astype(int)
    else:
        raise ValueError(f"spacing is {spacing!r}; there is leading, trailing, linspace")
    if rows[-1] >= total:
        raise ValueError(f"offset is {offset}, which leaves the table of {total} steps; give a smaller one")
    return NoiseLevel(*(jnp.asarray(column)[np.append(0, rows + 1)] for column in levels))


def _strided(num_steps: int, spec: str) -> list[int]:
    """ADM's "ddimN": 0, s, 2 s, ... for the smallest stride s that visits exactly N steps."""
    (count,) = _counts(spec.strip().removeprefix("ddim")) or [0]
    for stride in range(1, num_steps):
        if len(range(0, num_steps, stride)) == count:
            return list(range(0, num_steps, stride))
    raise ValueError(
        f"no constant stride visits exactly {count} of {num_steps} steps; try {str(count)!r} without 'ddim'"
    )


def _sectioned(num_steps: int, counts: list[int]) -> list[int]:
    """ADM's sections: equal shares of the steps (the first ones get the remainder), each visited evenly end to end."""
    steps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = num_steps // len(counts) + (section < num_steps % len(counts))
        if count > size:
            raise ValueError(f"cannot take {count} steps from a section of {size} (of {num_steps} steps in all)")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Repeated addition, then rounding half to even: the sums that ADM's published timesteps come from.
        offsets = np.cumsum([0.0] + [stride] * (count - 1)) if count else np.array([])
        steps += [start + round(float(offset)) for offset in offsets]
        start += size
    return steps


def _counts(spec: int | str | list[int] | tuple[int, ...]) -> list[int]:
    """The numbers of a spec, one for each section. Raises ValueError for anything but whole numbers."""
    parts = spec.split(",") if isinstance(spec, str) else spec if isinstance(spec, (list, tuple)) else [spec]
    try:
        counts = [int(part) if isinstance(part, str) else operator.index(part) for part in parts]
    except (TypeError, ValueError):
        counts = []
    if any(isinstance(part, (bool, np.bool_)) for part in parts):
        counts = []
    if not counts or min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"cannot read the steps {spec!r}; give 50, '50', 'ddim50', '10,15,20' or [10, 15, 20]")
    return counts
