"""PLMS: Adams-Bashforth coefficients for even steps in t, inside DDIM's step.

Source: [PNDM] Liu et al. 2202.09778, with the warm-up of latent diffusion: one more call, not three Runge-Kutta steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import Prediction, from_v, v
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, is_clean, is_pure_noise

# Row k: the weights of the newest k + 1 outputs.
ADAMS_BASHFORTH = (
    (1, 0, 0, 0),
    (3 / 2, -1 / 2, 0, 0),
    (23 / 12, -16 / 12, 5 / 12, 0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class Memory(NamedTuple):
    """The outputs of the last four steps, the newest first, and the number of steps so far."""

    outputs: Array  # (4, *shape)
    made: Array


def plms(combine: str = "eps") -> ReverseStep:
    """DDIM's step with (55 e_1 - 59 e_2 + 37 e_3 - 9 e_4) / 24 in place of eps ([PNDM]), e_i the last predictions.

    The first steps, with fewer predictions, have (3, -1) / 2 and (23, -16, 5) / 12; the very first one has two calls, and
    the mean of eps at its two ends in place of eps.
    combine: what e is, "eps" as in the paper, or "v": diffusers combines the outputs of a network that predicts v, and
        converts the sum to eps by x_t, which lowers the order to 1.
    The levels of a run have to lie evenly in t, or in a smooth function of it. The error is of order 2, as that of DDIM's
    step with a mean eps is, whatever the coefficients. One call of the network a step, two at the first.
    Returns a ReverseStep.
    Raises ValueError for any other `combine`.
    """
    if combine not in ("eps", "v"):
        raise ValueError(f"combine is {combine!r}; give 'eps' or 'v'")
    output = v if combine == "v" else lambda prediction, level: prediction.eps

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        outputs = _put_first(output(prediction, now), memory.outputs)
        memory = Memory(outputs, memory.made + 1)
        weights = jnp.asarray(ADAMS_BASHFORTH, outputs.dtype)[jnp.clip(memory.made, 1, 4) - 1]
        change = jnp.tensordot(weights, outputs, 1) - outputs[0]
        x_s = _ddim(prediction, change, x_t, now, then, combine)

        def twice(x_s: Array) -> Array:
            change = (output(denoise(x_s, then), then) - outputs[0]) / 2
            return _ddim(prediction, change, x_t, now, then, combine).astype(x_s.dtype)

        first = (memory.made == 1) & ~is_clean(then) & ~is_pure_noise(now)
        return jax.lax.cond(first, twice, lambda x_s: x_s, x_s), memory

    def init(x_T: Array) -> Memory:
        return Memory(jnp.stack([jnp.zeros_like(x_T)] * 4), jnp.zeros((), jnp.int32))

    return ReverseStep(init, step)


def _put_first(value: Array, values: Array) -> Array:
    return jnp.concatenate([value.astype(values.dtype)[None], values])[:-1]


def _ddim(
    prediction: Prediction, change: Array, x_t: Array, now: NoiseLevel, then: NoiseLevel, combine: str
) -> Float[Array, "*shape"]:
    """alpha_s x_0 + sigma_s eps of a prediction whose eps, or v, is changed by this much.

    At alpha = 0 a change of eps has an infinite one of x_0, and is left out.
    """
    if combine == "v":
        shift = from_v(change, jnp.zeros_like(x_t), now)
        x_0, eps = prediction.x_0 + shift.x_0, prediction.eps + shift.eps
    else:
        change = jnp.where(is_pure_noise(now), 0.0, change)
        x_0 = prediction.x_0 - change * (now.sigma / jnp.where(is_pure_noise(now), 1.0, now.alpha))
        eps = prediction.eps + change
    return then.alpha * x_0 + then.sigma * eps
