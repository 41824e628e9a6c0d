"""`--guidance distilled`: a network that learned to guide, and is told the scale."""

from collections.abc import Iterable

from guided_jax.app import run as runs


def check(scales: Iterable[float], run: runs.Run) -> None:
    """Raise ValueError for a network that is told no scale, and for one beyond those that it learned."""
    if run.scales is None:
        raise ValueError(
            "this run's network is told no scale; train one by --diffusion.distill-from RUN, or use classifier-free"
        )
    low, high = run.scales
    if beyond := [scale for scale in scales if not low <= scale <= high]:
        raise ValueError(
            f"--scale is {beyond[0]:g}, and the network learned {low:g} to {high:g}; give one of these, or train it for "
            "others by --diffusion.distill-scales"
        )
