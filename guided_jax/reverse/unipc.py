"""UniPC: a multistep predictor, each step of which is corrected by the prediction at its end, without a further call.

Source: [UniPC] Zhao et al. 2302.04867.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.reverse.dpm import leg
from guided_jax.reverse.multistep import (
    History,
    check_choice,
    check_order,
    empty,
    exponential_moments,
    half_log_snr,
    mix,
    nodes_of,
    remember,
    steps_left,
)
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, is_clean


class Memory(NamedTuple):
    """The last predictions, and the last step."""

    history: History
    x: Array  # where the last step started
    level: NoiseLevel  # of x
    reached: Array  # where the last step ended


def unipc(order: int = 2, B: str | None = None, run: NoiseLevel | None = None) -> ReverseStep:
    """DPM-Solver++ from a corrected x_t: the last step made again with the prediction at x_t ([UniPC] algorithm 1).

    order: 1, 2 or 3, of the predictor; the method has order `order` + 1, for one call of the network a step. All
        weights are exact integrals, from which the paper's B(h) drops out, except that of the predictor of order 2,
        which is 1/2, as in the paper. The last step is not corrected. The correction is added to x_t, so that changes
        of x_t after the step, by `dps` or a Langevin step, remain.
    B: "bh1" or "bh2" for the paper's own weights: B(h) / 2 for the difference of two predictions, in the predictor of any
        order and in the corrector, where B(h) is h or 1 - e^-h.
    run: the levels of the run, to end it with a step of order 1 after one of order 2 at most, as the authors' code does.
    Returns a ReverseStep.
    Raises ValueError for any other order or B.
    """
    check_order(order)
    check_choice("B", B, (None, "bh1", "bh2"))

    def init(x_T: Array) -> Memory:
        one = jnp.ones((), x_T.dtype)
        return Memory(empty(x_T, order), x_T, NoiseLevel(one, one, one), x_T)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x_0, place = denoise(x_t, now).x_0, half_log_snr(now)
        correction = corrected(memory, x_0, now, order, B, run) - memory.reached
        x_t = x_t + jnp.where(memory.history.made > 0, correction, 0.0)
        history, way = remember(memory.history, x_0, place), leg(now, then)
        halved = B or ("bh2" if order == 2 else None)
        count = jnp.minimum(history.made, steps_left(run, now, order))
        target = mix(history.values, nodes_of(history.places, place, way.h), _moments(way.H, order, halved), count)
        x_s = way.kept * x_t + way.gain * jnp.where(is_clean(then), x_0, target)
        level = NoiseLevel(*(jnp.asarray(part, x_t.dtype) for part in now))
        return x_s, Memory(history, x_t, level, x_s)

    return ReverseStep(init, step)


def corrected(
    memory: Memory,
    x_0: Float[Array, "*shape"],
    now: NoiseLevel,
    order: int,
    B: str | None = None,
    run: NoiseLevel | None = None,
) -> Float[Array, "*shape"]:
    """The end of the last step of the memory, made again with a polynomial that also goes through x_0.

    x_0: the prediction at that end, of level now.
    order, B, run: of the predictor.
    """
    way = leg(memory.level, now)
    history = memory.history
    nodes = nodes_of(history.places, half_log_snr(memory.level), way.h)
    values = jnp.concatenate([history.values[:1], x_0[None], history.values[1:]])
    nodes = jnp.concatenate([nodes[:1], jnp.ones(1, nodes.dtype), nodes[1:]])
    count = jnp.minimum(history.made, steps_left(run, memory.level, order)) + 1
    return way.kept * memory.x + way.gain * mix(values, nodes, _moments(way.H, order + 1, B), count)


def _moments(H: Array, count: int, B: str | None) -> Callable[[int], list[Array]]:
    """Return size -> the moments of the polynomial through that many predictions; of two the paper's, if B is given."""
    exact = exponential_moments(H, count)
    half = (H if B == "bh1" else exact[0]) / 2
    return lambda size: [exact[0], half] if size == 2 and B else exact
