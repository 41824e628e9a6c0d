"""Samplers with stateful guidance."""

from typing import Any

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser, cached, match_type
from guided_jax.numerics import narrow, narrow_like, widen
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel
from guided_jax.stateful import Stateful, frozen


def with_state(stateful: Stateful, step: ReverseStep) -> ReverseStep:
    """Return `step` with stateful guidance: the state is fixed within a step, and updated once a step, at x_t.

    A method with several calls a step so calls one and the same denoiser.
    stateful: guidance with a state, such as `guidance.projected`.
    step: a ReverseStep.
    Returns a ReverseStep whose memory is (the memory of `step`, the state). The `denoise` argument of `sampler.sample`
        then serves `observe` only: give `guidance.first_state(stateful)`.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
    >>> guided = gj.guidance.projected(mixture.denoiser(1), mixture.denoiser(), 2.0, momentum=-0.5)
    >>> step, first = gj.reverse.with_state(guided, gj.reverse.ddim()), gj.guidance.first_state(guided)
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> gj.sampler.sample(jax.random.key(0), first, step, jnp.zeros(1), levels).shape
    (1,)
    """

    def init(x_T: Array) -> tuple[Any, Any]:
        return step.init(x_T), stateful.init(x_T)

    def both(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        own, state = memory
        prediction, updated = stateful.denoise(state, x_t, now)
        first, later = narrow(widen(prediction), x_t.dtype), match_type(frozen(stateful, state))
        x_s, own = step.step(key, cached(first, x_t, now, later), x_t, own, now, then)
        return x_s, (own, narrow_like(updated, state))

    return ReverseStep(init, both)
