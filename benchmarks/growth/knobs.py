"""What is turned: one thing at a time, of guided sampling with the network of `make demo`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import flops, ours, sizes
from guided_jax import denoiser, models, parallel, particles, reverse

Draw = Callable[[Any, Any, Any], Any]  # (params, x_T, label) -> x_0, of one row
DIGITS = sizes.SIZES["digits"]
FEW = 16  # pictures of the knobs that turn something else


class Knob(NamedTuple):
    """values: what it is set to. unit: of the values. size: of the network and the work at a value."""

    values: tuple[int, ...]
    unit: str
    size: Callable[[int], sizes.Size]


def _sized(**fields: int) -> sizes.Size:
    return DIGITS._replace(**{"images": FEW, "steps": 10, **fields})


KNOBS = {
    "batch": Knob((1, 4, 16, 64, 256), "pictures", lambda n: _sized(images=n)),
    "steps": Knob((5, 10, 20, 50, 100), "steps", lambda n: _sized(steps=n)),
    "side": Knob((8, 16, 32, 64), "pixels", lambda n: _sized(side=n, images=4)),
    "classes": Knob((10, 1000, 100_000), "classes", lambda n: _sized(num_classes=n)),
    "particles": Knob((1, 4, 16, 64, 256), "particles", lambda n: _sized(images=n)),
    "devices": Knob((1, 2), "devices", lambda n: _sized(images=128)),
}


class Program(NamedTuple):
    """run: one call of the library. memory: () -> bytes that XLA plans for one device beside weights and results."""

    run: Callable[[], np.ndarray]
    memory: Callable[[], int]


@functools.cache
def _weights(num_classes: int, side: int) -> Any:
    """Prepared once for all steps, as `guided-jax sample` does."""
    size = DIGITS._replace(num_classes=num_classes, side=side)
    unet, _ = sizes.networks(size)
    prepare = functools.partial(models.prepare_params, unet)
    return {"unet": jax.jit(prepare)(sizes.parameters(size)["unet"], *_example(size))}


def _example(size: sizes.Size) -> tuple[Any, ...]:
    return jnp.zeros((1, size.side, size.side, size.channels)), jnp.zeros(1), jnp.zeros(1, jnp.int32)


def _pictures(size: sizes.Size) -> Draw:
    """Classifier-free guidance by DDIM."""
    unet, _ = sizes.networks(size)
    return ours.drawing(size, "classifier-free", "plain", unet.apply, None)


def _cloud(size: sizes.Size) -> Draw:
    """The same, of `size.images` particles of one label, weighed to draw p(x)^(1 - scale) p(x | c)^scale itself."""
    unet, _ = sizes.networks(size)
    levels = ours.levels_of(size.steps)

    def draw(params: Any, x_T: Any, label: Any) -> Any:
        model = lambda y: denoiser.from_network(lambda x, t: unet.apply(params["unet"], x, t, y))  # noqa: E731
        null = model(size.num_classes)
        potential = particles.corrected(null, model(label), sizes.SCALE)
        return particles.sample(jax.random.key(0), null, reverse.ddpm(), x_T, levels, potential).x_0

    return draw


def program(knob: str, value: int) -> Program:
    """Return what is timed with the knob at this value; on one device unless the knob is the number of devices."""
    size = KNOBS[knob].size(value)
    devices = parallel.choose_devices(size.images, value if knob == "devices" else 1)
    x_T, label = ours.start(size)
    draw = _pictures(size)
    if knob == "particles":
        draw, x_T, label = _cloud(size), x_T[None], label[:1]
    weights = _weights(size.num_classes, size.side)

    def memory() -> int:
        share = [jax.ShapeDtypeStruct((len(a) // len(devices), *a.shape[1:]), a.dtype) for a in (x_T, label)]
        lowered = jax.jit(jax.vmap(draw, in_axes=(None, 0, 0))).lower(weights, *share)
        return lowered.compile(parallel.compiler_options(devices)).memory_analysis().temp_size_in_bytes

    run = parallel.parallel_map(draw, devices, (None, 0, 0))
    return Program(functools.partial(run, parallel.replicate(weights, devices), x_T, label), memory)


def operations(knob: str, value: int) -> int:
    """Of matrix products and convolutions of one call: two of the U-Net for each picture and step."""
    size = KNOBS[knob].size(value)
    unet, _ = sizes.networks(size, plain_convolution=True)
    example = _example(size)
    params = jax.eval_shape(unet.init, jax.random.key(0), *example)
    return 2 * size.images * size.steps * flops.by_torch_rules(unet.apply, params, *example)
