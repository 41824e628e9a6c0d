"""Steps that draw x_0 anew at each level: by a short run from x_t, then given y; it is noised to the next level.

Two levels are tied to one another by x_0 alone, so that later levels correct the errors of earlier ones.

Sources: [DAPS] Zhang et al. 2407.01521, [PnP-DM] Wu et al. 2405.18782.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.numerics import narrow, ratio, root
from guided_jax.operators import Operator
from guided_jax.reverse.implicit import ddim
from guided_jax.reverse.step import ReverseStep, no_memory
from guided_jax.schedule import NoiseLevel, at, interpolate, levels_like, noise_ratio
from guided_jax.strength import LogProb, Scale, strength

RHO = 7.0  # of Karras's spacing
HIGHEST = 80.0  # of sigma / alpha, but of the level itself: above it, nothing is left of a picture


def daps(
    log_prob: LogProb,
    levels: NoiseLevel,
    curvature: ArrayLike,
    calls: int = 5,
    iterations: int = 100,
    size: Scale = 0.1,
    spread: Scale = noise_ratio,
) -> ReverseStep:
    """x_s = alpha_s x' + sigma_s noise, x' by Langevin steps from x_0 on log N(x'; x_0, r^2 I) + log p(y | x') ([DAPS]).

    x_0 is the end of the probability flow from x_t, by Euler steps ([DAPS] algorithm 1). The law of x_0 given x_t is
    taken to be N(x_0, r^2 I): wider than it is of most data, by less and less as r falls.
    log_prob: (x_0, level) -> log p(y | x_0), with a derivative, such as `guidance.likelihood` of any operator.
    levels: the full table: the flow visits levels between those of the run.
    curvature: the greatest second derivative of -log_prob in any direction, |A|^2 / noise_std^2 of a linear measurement;
        a number or traced value. The Langevin steps are size / (1 / r^2 + curvature) long.
    calls: of the network at each level, at least 1.
    iterations: Langevin steps at each level, at least 1, none of which calls the network.
    size: below 2, a number, traced value or function of the level. In the direction of most curvature the variance is
        1 / (1 - size / 2) times too large, and 1 / size steps forget x_0; in others it takes longer.
    spread: r, as size; sigma / alpha is the paper's.
    Returns a ReverseStep without memory.
    Raises ValueError for counts below 1.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([0.5]))
    >>> log_prob = gj.guidance.likelihood(gj.operators.matrix(jnp.array([[2.0]])), jnp.array([0.6]), 0.02)
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 10)
    >>> step = gj.reverse.daps(log_prob, gj.schedule.cosine(1000), curvature=4 / 0.02**2)
    >>> x_0 = gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, jnp.ones(1), levels)
    >>> round(float(x_0[0]), 1)
    0.3
    """
    _check(calls=calls, iterations=iterations)
    check_number("curvature", curvature)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        key_walk, key_noise = jax.random.split(key)
        x_0 = _descend(key_walk, denoise, x_t, now, levels, calls, 0.0)
        tightness = ratio(1.0, jnp.square(jnp.asarray(strength(spread, now, "spread"))))
        length = strength(size, now, "size") * ratio(1.0, tightness + curvature)

        def walk(x: Array, key) -> tuple[Array, None]:
            slope = tightness * (x_0 - x) + jax.grad(log_prob)(x, now)
            moved = x + length * slope + root(2 * length) * jax.random.normal(key, x.shape, x.dtype)
            return narrow(moved, x.dtype), None

        drawn, _ = jax.lax.scan(walk, x_0, jax.random.split(key_walk, iterations))
        return then.alpha * drawn + then.sigma * jax.random.normal(key_noise, x_t.shape, x_t.dtype), memory

    return ReverseStep(no_memory, step)


def split_gibbs(
    operator: Operator, y: Float[Array, "..."], noise_std: ArrayLike, levels: NoiseLevel, calls: int = 10
) -> ReverseStep:
    """x_s = alpha_s z, z ~ p(y | z) N(z; x_0, rho^2 I), rho = sigma_s / alpha_s, x_0 ~ p(x_0 | x_t) ([PnP-DM] algorithm 1).

    A split Gibbs sampler of p(x) p(y | z) N(z; x, rho^2 I), whose rho falls along the levels: x_0 is drawn by a short run
    of ddim(eta=1) and z exactly. At a level that is held, x_0 follows p(x) N(y; A x, noise_std^2 I + rho^2 A A^T) in the
    end, if `calls` is large; a run that falls slowly enough follows it on the way, and ends in the posterior. The last
    step draws x_0 alone.
    operator: A, with an adjoint.
    y: the measurement, of this example.
    noise_std: of y, a number or traced value.
    levels: the full table: the short runs visit levels between those of the run.
    calls: of the network at each level, at least 1.
    Returns a ReverseStep without memory.
    Raises ValueError for calls below 1.
    """
    _check(calls=calls)
    check_number("noise_std", noise_std)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        key_prior, key_z, key_y = jax.random.split(key, 3)
        x_0 = _descend(key_prior, denoise, x_t, now, levels, calls, 1.0)
        # z given x_0, corrected by a measurement that is drawn with it: a draw of z given x_0 and y.
        rho = ratio(then.sigma, then.alpha)
        z = x_0 + rho * jax.random.normal(key_z, x_t.shape, x_t.dtype)
        seen = operator.forward(z)
        seen = seen + noise_std * jax.random.normal(key_y, seen.shape, seen.dtype)
        gain = jnp.square(rho)
        z = z + gain * operator.adjoint(operator.solve(y - seen, gain, jnp.square(jnp.asarray(noise_std))))
        return then.alpha * z, memory

    return ReverseStep(no_memory, step)


def _descend(
    key,
    denoise: Denoiser,
    x_t: Float[Array, "*shape"],
    now: NoiseLevel,
    levels: NoiseLevel,
    calls: int,
    eta: ArrayLike,
) -> Float[Array, "*shape"]:
    """Return x_0 by `calls` steps of `ddim(eta)` from x_t: 0 for the probability flow, 1 for a draw of x_0 given x_t."""
    step, run = ddim(eta), levels_like(_between(now, levels, calls), x_t.dtype)

    def down(x: Array, given) -> tuple[Array, None]:
        key, above, below = given
        x_s, _ = step.step(key, denoise, x, (), above, below)
        return narrow(x_s, x.dtype), None

    above, below = (NoiseLevel(*(column[part] for column in run)) for part in (slice(-1), slice(1, None)))
    return jax.lax.scan(down, x_t, (jax.random.split(key, calls), above, below))[0]


def _between(now: NoiseLevel, levels: NoiseLevel, calls: int) -> NoiseLevel:
    """Return calls + 1 levels: `now`, others down to the table's first noisy one, and the clean one."""
    top = jnp.minimum(noise_ratio(now), HIGHEST)
    bottom = jnp.minimum(noise_ratio(at(levels, 1)), top)
    share = jnp.arange(1, calls) / max(calls - 1, 1)
    ratios = (top ** (1 / RHO) + share * (bottom ** (1 / RHO) - top ** (1 / RHO))) ** RHO
    inner = interpolate(levels, -2 * jnp.log(ratios))
    ends = zip(now, inner, at(levels, 0), strict=True)
    return NoiseLevel(*(jnp.concatenate([first[None], column, last[None]]) for first, column, last in ends))


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")
