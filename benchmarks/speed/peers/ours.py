"""The library's side: what a drawing of its own is here, with the scale as one more input of the program."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from benchmarks.speed import ours
from benchmarks.speed.sizes import Size
from guided_jax import denoiser, guidance, parallel, reverse, sampler, schedule

Interval = tuple[float, float]


def drawing(unet: nn.Module, null: int, levels: schedule.NoiseLevel, bounds: Interval | None) -> Callable:
    """(variables, x_T, label, scale) -> x_0 of one example. bounds: of sigma / alpha, where it is guided; None: always."""

    def draw(variables: Any, x_T: Any, label: Any, scale: Any) -> Any:
        model = lambda y: denoiser.from_network(lambda x, t: unet.apply(variables, x, t, y))  # noqa: E731
        free = lambda given: guidance.classifier_free(given, model(null), scale)  # noqa: E731
        guided = free(model(label)) if bounds is None else guidance.interval(free, model(label), *bounds)
        return sampler.sample(jax.random.key(0), guided, reverse.ddim(), x_T, levels)

    return draw


def sampling(size: Size, job: str, who: str, unet: nn.Module, variables: Any) -> Callable[[float], np.ndarray]:
    """scale -> pictures, as `guided-jax sample` makes them, on one device or all."""
    devices = parallel.choose_devices(size.images, 1 if "1 device" in who else None)
    levels = ours.levels_of(size.steps)
    bounds = ours.interval_of(levels) if job == "interval" else None
    one = drawing(unet, size.num_classes, levels, bounds)
    draw = parallel.parallel_map(one, devices, (None, 0, 0, None))
    placed, (x_T, labels) = parallel.replicate(variables, devices), ours.start(size)
    return lambda scale: draw(placed, x_T, labels, np.float32(scale))


def reference(
    size: Size, unet: nn.Module, variables: Any, levels: schedule.NoiseLevel, bounds: Interval | None
) -> Callable:
    """scale -> pictures at another library's levels, in one program on one device."""
    draw = jax.jit(jax.vmap(drawing(unet, size.num_classes, levels, bounds), (None, 0, 0, None)))
    given = functools.partial(draw, variables, *ours.start(size))
    return lambda scale: np.asarray(given(np.float32(scale)))


def train(size: Size, who: str) -> Callable[[], Any]:
    """A function that makes `size.train_steps` steps of training the U-Net."""
    return ours.build(size, "train", who)
