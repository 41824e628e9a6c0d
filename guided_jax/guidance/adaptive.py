"""Classifier-free guidance as long as it makes a difference. Source: [Castillo] Castillo et al. 2312.12487."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference
from guided_jax.guidance.skip import like, of_all
from guided_jax.numerics import norm, ratio
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.stateful import Stateful
from guided_jax.strength import Scale, strength


class AdaptiveState(NamedTuple):
    """The state of `adaptive`. stopped: whether c alone is predicted. saved: the steps at which u was not called."""

    stopped: Bool[Array, ""]
    saved: Int[Array, ""]


def adaptive(conditional: Denoiser, unconditional: Denoiser, scale: Scale, threshold: ArrayLike = 0.991) -> Stateful:
    """u + scale (c - u) until the cosine <c, u> / (|c| |u|) of x_0 passes the threshold, then c alone, with no call of u.

    The step whose cosine is above is guided, those after it are not ([Castillo]).
    conditional, unconditional: denoisers, c and u.
    scale: number, traced value or function of the level.
    threshold: number or traced value; at 1 it is `classifier_free` to the bit. The cosine is that of x_0: the eps of both
        is nearly the noise at the start of a run, where a cosine of eps would end the guidance at once.
    Returns a `Stateful`, for `reverse.with_state`, with the variance_fraction of c. Its state is an `AdaptiveState`;
        `saved_calls` reads it from the memory of `sampler.run`. Calls are saved by a `lax.cond`. Under `jax.vmap` u is
        called for all examples until the last of them has stopped: the results are those of each example alone, the
        savings those of the whole batch. The examples of a loop, such as `jax.lax.map`, each save their own calls.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.array([1.0, 0.0]), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.array([1.0, time / 10]), "x_0")  # comes closer to c
    >>> step = gj.reverse.with_state(gj.guidance.adaptive(c, u, 3.0, threshold=0.9), gj.reverse.ddim())
    >>> levels = gj.schedule.cosine(10)
    >>> x_0, memory, _ = gj.sampler.run(jax.random.key(0), c, step, jnp.zeros(2), levels)
    >>> int(gj.guidance.saved_calls(memory))  # of 10: the cosine is above 0.9 at the time 4
    4
    """

    def init(x_T: Array) -> AdaptiveState:
        return AdaptiveState(jnp.bool_(False), jnp.int32(0))

    def denoise(
        state: AdaptiveState, x_t: Float[Array, "*shape"], level: NoiseLevel
    ) -> tuple[Prediction, AdaptiveState]:
        c, skipped = conditional(x_t, level), of_all(state.stopped)
        x_0, eps = jax.lax.cond(skipped, lambda: like(c, c), lambda: like(unconditional(x_t, level), c))
        u = Prediction(x_0, eps)  # c itself where u was not called
        guided = by_difference(u, c, u, strength(scale, level))
        cosine = ratio(jnp.sum(c.x_0 * u.x_0), norm(c.x_0) * norm(u.x_0))
        above = jnp.minimum(cosine, 1.0) > threshold  # rounding may leave it above 1
        x_0, eps = (jnp.where(state.stopped, *views) for views in ((c.x_0, guided.x_0), (c.eps, guided.eps)))
        return c._replace(x_0=x_0, eps=eps), AdaptiveState(state.stopped | above, state.saved + skipped)

    return Stateful(init, denoise)
