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

    A corrector: x stays at its level, so it is called with then = now, as `chain` does. size: number, traced value or
    function of the level. With a finite size the stationary law is a wider one: of a normal law of variance V it is V /
    (1 - e / (2 V)). One call of the network each time; nothing happens at the clean level.

    The signal-to-noise ratio r of [SDE] algorithms 4 and 5 is size = 2 r^2, |score| being sqrt(d) / sigma on average. Their
    mean over the batch is left out on purpose, for it ties an example to its neighbours; the norm of the example alone
    makes the size depend on x, and so samples another law (in two dimensions a share of 0.35 became 0.31).
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; every level needs at least one step")

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        e = strength(size, now) * jnp.square(now.sigma)

        def once(x: Array, key):
            noise = jax.random.normal(key, x.shape, x.dtype)
            return x + e * score(denoise(x, now), now) + jnp.sqrt(2 * e) * noise, None

        return jax.lax.scan(once, x_t, jax.random.split(key, repeats))[0], memory

    return ReverseStep(no_memory, step)


def annealed_langevin(size: Scale = 0.2, repeats: int = 10) -> ReverseStep:
    """`repeats` Langevin steps at each level, then on to the next with the same x ([NCSN] algorithm 1).

    Into the clean level goes the predicted x_0, for without that last denoising ([ADV] section 3.1) the noise of the first
    level stays in. `repeats` calls of the network a level, one more into the clean one. Levels have to be close: a
    geometric progression as of `grid.log_snr`.
    """
    dynamics = langevin(size, repeats)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x, memory = dynamics.step(key, denoise, x_t, memory, now, now)
        return jax.lax.cond(is_clean(then), lambda x: denoise(x, now).x_0, lambda x: x, x), memory

    return ReverseStep(no_memory, step)


def chain(*steps: ReverseStep) -> ReverseStep:
    """chain(corrector, predictor): each step but the last at the level `now`, the last one from there to `then`.

    Song et al.'s predictor-corrector sampler, seen from the level at which both meet: chain(langevin(), ddpm()). The
    memory is a tuple of theirs. Raises ValueError for no steps.
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
