"""Score-based sampling: Langevin dynamics at a level, annealed down the levels, or as a corrector of any other sampler.

Sources: [NCSN] Song & Ermon 1907.05600 algorithm 1, [SDE] Song et al. 2011.13456 algorithms 2 to 5, [ADV]
Jolicoeur-Martineau et al. 2009.05475.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import score
from guided_jax.reverse.step import ReverseStep, no_memory
from guided_jax.schedule import NoiseLevel, is_clean
from guided_jax.strength import Scale, strength


def langevin(size: Scale = 0.1, repeats: int = 1) -> ReverseStep:
    """x <- x + e score + sqrt(2 e) noise, e = size sigma^2, `repeats` times at the level `now` ([NCSN] algorithm 1).

    A corrector: x stays at its level, so it is called with then = now, as `chain` does.
    size: number, traced value or function of the level; a finite size widens the stationary law: of a normal law of
        variance V it is V / (1 - e / (2 V)).
    repeats: at least 1, each with one call of the network. At the clean level x does not change.
    Returns a ReverseStep without memory.
    Raises ValueError for repeats below 1.

    The signal-to-noise ratio r of [SDE] algorithms 4 and 5 is size = 2 r^2, as |score| is sqrt(d) / sigma on average.
    Their mean of norms over the batch would make an example depend on its neighbours; the norm of the example alone
    makes the size depend on x, and so samples another law (in two dimensions a share of 0.35 became 0.31).
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; every level needs at least one step")

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        e = strength(size, now, "size") * jnp.square(now.sigma)

        def once(x: Array, key):
            noise = jax.random.normal(key, x.shape, x.dtype)
            return x + e * score(denoise(x, now), now) + jnp.sqrt(2 * e) * noise, None

        return jax.lax.scan(once, x_t, jax.random.split(key, repeats))[0], memory

    return ReverseStep(no_memory, step)


def annealed_langevin(size: Scale = 0.2, repeats: int = 10) -> ReverseStep:
    """`repeats` Langevin steps at each level, then the next level with the same x ([NCSN] algorithm 1).

    The last step returns the predicted x_0: without that denoising ([ADV]) the noise of the first level would remain.
    size, repeats: as for `langevin`; `repeats` calls of the network a level, and one more into the clean level. Levels
        have to be close, such as the geometric progression of `grid.log_snr`.
    Returns a ReverseStep without memory.
    """
    dynamics = langevin(size, repeats)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x, memory = dynamics.step(key, denoise, x_t, memory, now, now)
        return jax.lax.cond(is_clean(then), lambda x: denoise(x, now).x_0, lambda x: x, x), memory

    return ReverseStep(no_memory, step)


def chain(*steps: ReverseStep) -> ReverseStep:
    """chain(corrector, predictor): each step but the last at the level `now`, the last one from `now` to `then`.

    chain(langevin(), ddpm()) is the predictor-corrector sampler of [SDE].
    steps: ReverseSteps.
    Returns a ReverseStep whose memory is the tuple of their memories.
    Raises ValueError for no steps.

    >>> step = gj.reverse.chain(gj.reverse.langevin(0.05), gj.reverse.ddpm())
    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, jnp.ones(2), levels).shape
    (2,)
    """
    if not steps:
        raise ValueError("chain needs at least one step, such as chain(langevin(), ddpm())")

    def chained(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        kept = []
        for place, (each, own) in enumerate(zip(steps, memory, strict=True)):
            to = then if place == len(steps) - 1 else now
            x_t, own = each.step(jax.random.fold_in(key, place), denoise, x_t, own, now, to)
            kept.append(own)
        return x_t, tuple(kept)

    return ReverseStep(lambda x_T: tuple(each.init(x_T) for each in steps), chained)
