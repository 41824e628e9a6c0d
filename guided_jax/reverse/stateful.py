"""Any sampler with guidance that remembers."""

from typing import Any

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel
from guided_jax.stateful import Stateful, frozen


def with_state(stateful: Stateful, step: ReverseStep) -> ReverseStep:
    """`step` with the denoiser that `stateful` is at its state: frozen within a step, updated once after it, at x_t.

    So a method of several calls a step sees one denoiser. The memory is (the step's, the state). The `denoise` that
    `sampler.sample` is given beside it is not asked, except by an `observe`: give `guidance.first_state(stateful)`.
    """

    def init(x_T: Array) -> tuple[Any, Any]:
        return step.init(x_T), stateful.init(x_T)

    def both(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        own, state = memory
        prediction, updated = stateful.denoise(state, x_t, now)  # the step's first question, asked once
        x_s, own = step.step(key, cached(prediction, x_t, now, frozen(stateful, state)), x_t, own, now, then)
        return x_s, (own, updated)

    return ReverseStep(init, both)
