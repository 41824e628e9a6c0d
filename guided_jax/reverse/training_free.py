"""Training-free guidance: a step around any sampler that follows the gradient of a criterion of clean examples.

Other methods are settings of this one; the page Guidance methods has the table, and the tests compare each with its own
formula.

Source: [TFG] Ye et al. 2409.15761, algorithm 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser, cached
from guided_jax.forward import transition
from guided_jax.numerics import is_zero, narrow, narrow_like, ratio, root
from guided_jax.prediction import Prediction, from_x_0
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, is_pure_noise
from guided_jax.strength import LogProb, Scale, strength

WEIGHTS = {
    "increase": lambda kept: kept,
    "decrease": lambda kept: 1 - kept,
    "constant": jnp.ones_like,
}
KEEPS = ("eps", "x_t")
Range = tuple[ArrayLike, ArrayLike]
Function = Callable[[Array], Array]


def training_free(
    step: ReverseStep,
    log_prob: LogProb,
    rho: Scale = 0.25,
    mu: Scale = 0.25,
    smoothing: Scale = 0.001,
    samples: int = 1,
    iterations: int = 4,
    recurrence: int = 1,
    levels: NoiseLevel | None = None,
    weights: str = "increase",
    clip: Range | None = None,
    keeps: str = "eps",
) -> ReverseStep:
    """x_s = step(x_t) + alpha_s/alpha_t rho_t grad_{x_t} F(x_0(x_t)) + alpha_s d, d = sum_i mu_t grad F(x_0 + d) ([TFG]).

    F(x) = log mean_i exp log_prob(x + smoothing sigma_t z_i): the criterion, smoothed. The gradient of rho_t goes through
    the network, that of mu_t does not. A table that is not variance preserving is guided as the same process scaled to
    alpha^2 + sigma^2 = 1, for which the paper is written: rho_t counts alpha_t^2 + sigma_t^2 times, and sigma_t in F is
    the scaled one.
    step: a ReverseStep.
    log_prob: (x_0, level) -> log p(y | x_0), or any scalar that is to be large, such as minus a loss.
    rho, mu: the two strengths, numbers, traced values or functions of the level `now`. Without a backward pass of the
        network where rho is the number 0.
    smoothing: the paper's gamma, as rho; the number 0 for the criterion itself.
    samples: z_i drawn for F at each step.
    iterations: steps of d at each level; 0 for none.
    recurrence: how often each step is made, noised back to x_t in between.
    levels: the table of the run, for the weights; None for rho_t = rho and mu_t = mu.
    weights: rho_t = rho w_t / mean(w), mu_t alike, with w_t = (alpha_t/alpha_s)^2 ("increase"), 1 - (alpha_t/alpha_s)^2
        ("decrease") or 1 ("constant").
    clip: the range of x_0, such as (-1, 1), for an unclipped denoiser: the criterion and the step get the clipped x_0. The
        gradient passes through the clip as if it were not there; in a clipped denoiser elements out of range get none.
    keeps: what remains of the prediction as x_0 moves by d, "eps", or "x_t" for universal guidance: d then has the factor
        alpha_s - sigma_s alpha_t/sigma_t.
    Returns a ReverseStep with the memory of `step`, for an unguided denoiser.
    Raises ValueError for counts that are too small, and for other weights or keeps.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.3, 0.3]))
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 20)
    >>> step = gj.reverse.training_free(gj.reverse.ddim(), lambda x_0, level: 3 * x_0[0], rho=0.5, mu=0.0, levels=levels)
    >>> x_0 = gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, jnp.array([-0.5]), levels)
    >>> bool(x_0[0] > 0.5)
    True
    """
    _check(samples, iterations, recurrence, weights, keeps)

    def once(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        weight = 1.0 if levels is None else _weight(now, then, levels, weights)
        rho_t, mu_t = weight * strength(rho, now, "rho"), weight * strength(mu, now, "mu")
        prediction, pull = _predict(denoise, x_t, now, backward=not is_zero(rho))
        prediction = _clip(prediction, x_t, now, clip)
        criterion = _smoothed(jax.random.fold_in(key, 1), log_prob, prediction.x_0, now, smoothing, samples)
        gradient, moved = _climb(criterion, prediction.x_0, mu_t, 0 if is_zero(mu) else iterations)
        clipped = cached(prediction, x_t, now, lambda x, level: _clip(denoise(x, level), x, level, clip))
        x_s, memory = step.step(key, clipped, x_t, memory, now, then)
        share = then.alpha - (then.sigma * ratio(now.alpha, now.sigma) if keeps == "x_t" else 0.0)
        slope = jnp.where(is_pure_noise(now), 0.0, pull(gradient))
        power = jnp.square(now.alpha) + jnp.square(now.sigma)
        return x_s + ratio(then.alpha, now.alpha) * power * rho_t * slope + share * moved, memory

    def guided(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        if recurrence == 1:
            return once(key, denoise, x_t, memory, now, then)

        def again(carry, key):
            key_once, key_back = jax.random.split(key)
            x_s, kept = once(key_once, denoise, carry[0], memory, now, then)
            back = transition(x_s, jax.random.normal(key_back, x_s.shape, x_s.dtype), then, now)
            return narrow_like((back, x_s, kept), carry), None

        (_, x_s, kept), _ = jax.lax.scan(again, (x_t, x_t, memory), jax.random.split(key, recurrence))
        return x_s, kept

    return ReverseStep(step.init, guided)


def _check(samples: int, iterations: int, recurrence: int, weights: str, keeps: str) -> None:
    for name, count, least in (("samples", samples, 1), ("iterations", iterations, 0), ("recurrence", recurrence, 1)):
        if count < least:
            raise ValueError(f"{name} is {count}; give at least {least}")
    for name, value, known in (("weights", weights, tuple(WEIGHTS)), ("keeps", keeps, KEEPS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(known)}")


def _weight(now: NoiseLevel, then: NoiseLevel, levels: NoiseLevel, weights: str) -> Array:
    """Return w_t / mean(w) of the step from `now` to `then`, the mean over the steps of the table."""
    law, (noisy, below) = (
        WEIGHTS[weights],
        (NoiseLevel(*(c[part] for c in levels)) for part in (slice(1, None), slice(-1))),
    )
    return narrow(ratio(law(_kept(now, then)), jnp.mean(law(_kept(noisy, below)))), jnp.result_type(now.alpha))


def _kept(now: NoiseLevel, then: NoiseLevel) -> Array:
    """(alpha_t/alpha_s)^2 of levels scaled to alpha^2 + sigma^2 = 1, of one step or of a table."""
    signal_t, signal_s = (
        jnp.square(level.alpha) / (jnp.square(level.alpha) + jnp.square(level.sigma)) for level in (now, then)
    )
    return ratio(signal_t, signal_s, at_zero=1.0)


def _clip(prediction: Prediction, x_t: Array, level: NoiseLevel, clip: Range | None) -> Prediction:
    if clip is None:
        return prediction
    x_0 = jnp.clip(prediction.x_0, *clip)
    return prediction._replace(x_0=x_0, eps=from_x_0(x_0, x_t, level).eps)


def _predict(denoise: Denoiser, x_t: Array, level: NoiseLevel, backward: bool) -> tuple[Prediction, Function]:
    """Return (the prediction, gradient in x_0 -> gradient in x_t); the latter is 0 without a backward pass."""
    if not backward:
        return denoise(x_t, level), jnp.zeros_like

    def of(x: Array) -> tuple[Array, Prediction]:
        prediction = denoise(x, level)
        return prediction.x_0, prediction

    _, vjp, prediction = jax.vjp(of, x_t, has_aux=True)
    return prediction, lambda gradient: vjp(gradient)[0]


def _smoothed(key, log_prob: LogProb, x_0: Array, level: NoiseLevel, smoothing: Scale, samples: int) -> Function:
    """Return x -> log mean_i exp log_prob(x + smoothing sigma_t z_i), with z_i drawn once."""
    if is_zero(smoothing):
        return lambda x: log_prob(x, level)
    power = jnp.square(level.alpha) + jnp.square(level.sigma)
    std = strength(smoothing, level, "smoothing") * ratio(level.sigma, root(power))
    noise = std * jax.random.normal(key, (samples, *x_0.shape), x_0.dtype)

    def smoothed(x: Array) -> Array:
        each = jax.vmap(lambda shift: log_prob(x + shift, level))(noise)
        return jax.nn.logsumexp(each) - jnp.log(jnp.float32(samples))

    return smoothed


def _climb(criterion: Function, x_0: Array, mu_t: ArrayLike, iterations: int) -> tuple[Array, Array]:
    """Return (the gradient at x_0, d after the iterations d += mu_t grad criterion(x_0 + d))."""

    def up(moved: Array, _) -> tuple[Array, Array]:
        gradient = jax.grad(criterion)(x_0 + moved)
        return narrow_like(moved + mu_t * gradient, moved), gradient

    moved, gradients = jax.lax.scan(up, jnp.zeros_like(x_0), None, length=max(iterations, 1))
    return gradients[0], moved if iterations else jnp.zeros_like(x_0)
