"""DDPM's ancestral sampling and its classifier-guided form.

Sources: [DDPM] Ho et al. 2006.11239 algorithm 2, [iDDPM] Nichol & Dhariwal 2102.09672, [ADM] Dhariwal & Nichol
2105.05233 algorithm 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import Normal, posterior, step_beta
from guided_jax.prediction import Prediction
from guided_jax.reverse.step import ReverseStep, from_law
from guided_jax.schedule import NoiseLevel, is_clean
from guided_jax.strength import LogProb, Scale, strength

Variance = str | Callable[[Prediction, NoiseLevel, NoiseLevel], Array]
# (mean, variance, prediction, x_t, now, then) -> mean
Shift = Callable[[Array, Array, Prediction, Array, NoiseLevel, NoiseLevel], Array]


def ddpm(variance: Variance = "small") -> ReverseStep:
    """x_s = mean of q(x_s | x_t, x_0 = prediction) + sqrt(variance) noise, no noise into the clean level ([DDPM] alg. 2).

    variance: "small", the posterior variance; "large", the step's beta; "learned", between the two in the logarithm by
        the prediction's variance_fraction ([iDDPM] eq. 15); or a function (prediction, now, then) -> variance.
    Returns a ReverseStep, whose memory is the last posterior variance.
    Raises ValueError for any other variance.

    >>> step, x_T = gj.reverse.ddpm("large"), jnp.ones(3)
    >>> denoise = gj.denoiser.from_network(lambda x_t, time: 0.1 * x_t, "v")
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> gj.sampler.sample(jax.random.key(0), denoise, step, x_T, levels).shape
    (3,)
    """
    return shifted(variance, lambda mean, variance, prediction, x_t, now, then: mean)


def classifier_ddpm(log_prob: LogProb, scale: Scale, at: str = "x_t", variance: Variance = "small") -> ReverseStep:
    """mean + scale * variance * grad log p(y | x): the DDPM step of [ADM] algorithm 1.

    log_prob: (x_t, level) -> log p(y | x_t), a scalar.
    scale: number, traced value, or function of the level `now`.
    at: "x_t" takes the gradient where the step starts, as OpenAI's code does; "mean" takes it at the mean and the level
        `then`, as the derivation does: no shift on the last step, where that level is clean.
    variance: as for `ddpm`.
    Returns a ReverseStep, for an unguided denoiser.
    Raises ValueError for any other `at` or variance.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
    >>> step = gj.reverse.classifier_ddpm(mixture.log_prob(1), 2.0)
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 10)
    >>> bool(gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, jnp.zeros(1), levels)[0] > 0.5)
    True
    """
    if at not in ("x_t", "mean"):
        raise ValueError(f"unknown place {at!r} for the classifier's gradient; choose 'x_t' or 'mean'")

    def shift(
        mean: Array, variance: Array, prediction: Prediction, x_t: Array, now: NoiseLevel, then: NoiseLevel
    ) -> Array:
        if at == "x_t":
            return mean + strength(scale, now) * variance * jax.grad(log_prob)(x_t, now)
        last = is_clean(then)
        level = NoiseLevel(
            *(jnp.where(last, n, t) for n, t in zip(now, then, strict=True))
        )  # not at t = 0, where time is -1
        gradient = jnp.where(last, 0.0, jax.grad(log_prob)(mean, level))
        return mean + strength(scale, now) * variance * gradient

    return shifted(variance, shift)


def shifted(variance: Variance, shift: Shift) -> ReverseStep:
    """ddpm(variance) with its mean replaced by shift(mean, ...): every guidance of the mean is made of this."""
    rule = variance_of(variance)

    def law(denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        mean, small = posterior(x_t, prediction.x_0, now, then)
        var = rule(prediction, now, then, small, memory)
        mean = shift(mean, var, prediction, x_t, now, then)
        return Normal(mean, jnp.where(is_clean(then), 0.0, var)), jnp.asarray(small, x_t.dtype)

    return from_law(lambda x_T: jnp.zeros((), x_T.dtype), law)


def variance_of(variance: Variance) -> Callable[..., Array]:
    """Return the rule (prediction, now, then, small, previous) -> variance that a `variance` of `ddpm` stands for.

    small: the posterior variance of the step. previous: that of the step before.
    """
    if callable(variance):
        return lambda prediction, now, then, small, previous: variance(prediction, now, then)
    rules: dict[str, Callable[..., Array]] = {
        "small": lambda prediction, now, then, small, previous: small,
        "large": _large,
        "learned": _learned,
    }
    if variance not in rules:
        raise ValueError(f"unknown variance {variance!r}; choose one of {', '.join(rules)}, or give a function")
    return rules[variance]


def _large(prediction: Prediction, now: NoiseLevel, then: NoiseLevel, small: Array, previous: Array) -> Array:
    return jnp.where(is_clean(then), borrowed(now, then, small, previous), step_beta(now, then))


def _learned(prediction: Prediction, now: NoiseLevel, then: NoiseLevel, small: Array, previous: Array) -> Array:
    if prediction.variance_fraction is None:
        raise ValueError(
            "variance 'learned' needs a network with learned variance: from_network(..., learned_variance=True)"
        )
    tiny = jnp.finfo(jnp.float32).tiny
    low = jnp.log(jnp.maximum(borrowed(now, then, small, previous), tiny))
    high = jnp.log(jnp.maximum(step_beta(now, then), tiny))
    # A fraction outside [0, 1] extrapolates, as in ADM; bounded, so that the square of the variance is finite in float32.
    return jnp.exp(jnp.minimum(low + prediction.variance_fraction * (high - low), 40.0))


def borrowed(now: NoiseLevel, then: NoiseLevel, small: Array, previous: Array) -> Array:
    """The posterior variance `small`; into the clean level, where it is 0, `previous`, that of the step before, as in ADM.

    now, then: the levels of the step.
    A run of a single step has no step before, and takes beta.
    """
    return jnp.where(is_clean(then), jnp.where(previous > 0, previous, step_beta(now, then)), small)
