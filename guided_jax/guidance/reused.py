"""Classifier-free guidance with the second call at every k-th step: the difference changes slowly, and is used again.

Source: [FC] Lv et al. 2410.19355, which keeps it in two bands of frequencies; here it is that of eps as a whole.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.skip import like, of_all
from guided_jax.numerics import ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.stateful import Stateful
from guided_jax.strength import Scale, strength


class ReusedState(NamedTuple):
    """The state of `reused`. difference: c - u of eps, (*shape). steps: made. saved: those at which u was not called."""

    difference: Array
    steps: Int[Array, ""]
    saved: Int[Array, ""]


def reused(conditional: Denoiser, unconditional: Denoiser, scale: Scale, every: int = 2) -> Stateful:
    """c + (scale - 1) (c - u), with c - u in eps of the last step at which u was called: steps 0, every, 2 every ...

    conditional, unconditional: denoisers, c and u.
    scale: number, traced value or function of the level.
    every: at 1 it is `classifier_free`. The difference of eps, at the next level times -sigma / alpha for x_0, was nearer
        than that of x_0 on Fashion-MNIST, by DPM-Solver++ in 15 steps; it is 0 after a level of alpha = 0.
    Returns a `Stateful`, for `reverse.with_state`, with the variance_fraction of c. Its state is a `ReusedState`;
        `saved_calls` reads it. Calls are saved by a `lax.cond`, in a batch too, as all examples leave out the same steps.
    Raises ValueError for every below 1.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.full_like(x_t, 2.0), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.ones_like(x_t), "x_0")
    >>> step = gj.reverse.with_state(gj.guidance.reused(c, u, 3.0), gj.reverse.ddim())
    >>> x_0, memory, _ = gj.sampler.run(jax.random.key(0), c, step, jnp.zeros(2), gj.schedule.cosine(10))
    >>> x_0.shape, int(gj.guidance.saved_calls(memory))
    ((2,), 5)
    """
    if every < 1:
        raise ValueError(f"every is {every}; u is called at every so many steps, at least 1")

    def init(x_T: Array) -> ReusedState:
        return ReusedState(jnp.zeros_like(x_T), jnp.int32(0), jnp.int32(0))

    def denoise(state: ReusedState, x_t: Float[Array, "*shape"], level: NoiseLevel) -> tuple[Prediction, ReusedState]:
        c, skips = conditional(x_t, level), of_all(state.steps % every != 0)

        def again() -> tuple[Array, Array]:
            eps = state.difference.astype(c.eps.dtype)
            return (-ratio(level.sigma, level.alpha) * eps).astype(c.x_0.dtype), eps

        def anew() -> tuple[Array, Array]:
            x_0, eps = like(unconditional(x_t, level), c)
            return c.x_0 - x_0, c.eps - eps

        x_0, eps = jax.lax.cond(skips, again, anew)
        excess = jnp.asarray(strength(scale, level)) - 1
        guided = c._replace(x_0=c.x_0 + excess * x_0, eps=c.eps + excess * eps)
        return guided, ReusedState(eps, state.steps + 1, state.saved + skips)

    return Stateful(init, denoise)
