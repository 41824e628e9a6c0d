"""Steps that draw x_0 given a linear measurement: the predicted x_0 is corrected by y, then noised again.

Sources: [DDNM] Wang et al. 2212.00490, [DiffPIR] Zhu et al. 2305.08995.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.checks import check_number
from guided_jax.denoiser import Denoiser
from guided_jax.forward import posterior, step_beta
from guided_jax.numerics import is_zero, ratio, root
from guided_jax.operators import Operator, pseudo_inverse
from guided_jax.reverse.step import ReverseStep, no_memory
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def ddnm(operator: Operator, y: Float[Array, "..."], noise_std: ArrayLike = 0.0, eta: ArrayLike = 0.85) -> ReverseStep:
    """x_s ~ q(x_s | x_t, x'), x' = A^+ y + (I - A^+ A) x_0: its measured part replaced ([DDNM] algorithm 1).

    Of a noisy y the part of x_0 along a singular vector of A, of singular value v, goes to y only where the noise that y
    brings along is not more than the step adds, and the step adds as much less: the share is 1 and the variance
    std^2 - (a noise_std / v)^2, for the a of x_0 in the mean of q(x_s | x_t, x_0) and its variance std^2. Elsewhere the
    share is sqrt(1 - eta^2) std v / (a noise_std) and the variance eta^2 std^2 ([DDNM] section 3.3, for singular values
    and with the eta of the authors' code). The last step, which adds no noise, is not corrected.
    operator: A, with an adjoint, and with `spectral` for a noisy y.
    y: the measurement, of this example.
    noise_std: of y, a number or traced value. 0: A x_0 of the sample is y up to rounding, if A can give y.
    eta: of a noisy y, 0 to 1, a number or traced value: the share of the noise that is new where A hardly sees. The noise
        of y is the same at every step, so that with 0 it adds up: samples of a blur then do not vary, and are far off.
    Returns a ReverseStep without memory, of one call of the network and no backward pass.
    Raises ValueError for a noise_std above 0 and an operator without `spectral`.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> step = gj.reverse.ddnm(gj.operators.matrix(jnp.array([[1.0, 1.0]])), jnp.array([0.7]))
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> x_0 = gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, jnp.ones(2), levels)
    >>> round(float(x_0.sum()), 4)
    0.7
    """
    check_number("noise_std", noise_std)
    check_number("eta", eta)
    spectral = operator.spectral
    if spectral is None and not is_zero(noise_std):
        raise ValueError(
            "this operator has no spectral, which ddnm needs for a noisy y; give noise_std 0, or use diffpir"
        )

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        x_0 = denoise(x_t, now).x_0
        residual, noise = y - operator.forward(x_0), jax.random.normal(key, x_t.shape, x_t.dtype)
        if spectral is None or is_zero(noise_std):
            mean, variance = posterior(x_t, x_0 + pseudo_inverse(operator, residual), now, then)
            return mean + root(variance) * noise, memory
        std = root(posterior(x_t, x_0, now, then).variance)
        passed = then.alpha * ratio(step_beta(now, then), jnp.square(now.sigma)) * noise_std  # of y into x_s, for v = 1

        def corrected(values: Array) -> Array:
            part = root(1 - jnp.square(jnp.asarray(eta))) * ratio(std * root(values), passed)
            return ratio(jnp.where(std * root(values) >= passed, 1.0, part), values)

        def lessened(values: Array) -> Array:
            left = root(jnp.square(std) - ratio(jnp.square(passed), values))
            return ratio(jnp.where(std * root(values) >= passed, left, eta * std) - std, values)

        x_0 = x_0 + operator.adjoint(spectral(corrected, residual))
        noise = std * noise + operator.adjoint(spectral(lessened, operator.forward(noise)))
        return posterior(x_t, x_0, now, then).mean + noise, memory

    return ReverseStep(no_memory, step)


def diffpir(
    operator: Operator,
    y: Float[Array, "..."],
    noise_std: ArrayLike,
    prior_weight: Scale = 7.0,
    zeta: Scale = 0.3,
) -> ReverseStep:
    """x' = argmin |y - A x|^2 + rho |x - x_0|^2, x_s = alpha_s x' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) noise).

    rho = prior_weight noise_std^2 alpha^2 / sigma^2, and eps' explains x_t by x' ([DiffPIR] algorithm 1). Unlike the
    authors' code the last step is made like all others, so that the sample is x' of the first noisy level.
    operator: A, with an adjoint.
    y: the measurement, of this example.
    noise_std: of y, a number or traced value; 0 for the pseudo-inverse at every level.
    prior_weight: the paper's lambda, a number, traced value or function of the level; 7 and zeta 0.3 are the authors' for
        deblurring. For normal data of deviation s the right one is 1 + sigma^2 / (alpha s)^2, that is 1 as sigma falls.
    zeta: the share of the noise that is new at each step, 0 to 1, as prior_weight. x_0 is a mean and no draw: the more
        noise is new, the less the samples vary (of normal data, not measured, at one level by
        sigma^2 zeta / (1 - g^2), g = p + sqrt(1 - zeta) (1 - p), p = alpha^2 s^2 / (alpha^2 s^2 + sigma^2)).
    Returns a ReverseStep without memory, of one call of the network and no backward pass.
    """
    check_number("noise_std", noise_std)

    def step(key, denoise: Denoiser, x_t: Float[Array, "*shape"], memory, now: NoiseLevel, then: NoiseLevel):
        prediction = denoise(x_t, now)
        weight, new = strength(prior_weight, now, "prior_weight"), strength(zeta, now, "zeta")
        rho = weight * jnp.square(ratio(noise_std * now.alpha, now.sigma))
        shift = operator.adjoint(operator.solve(y - operator.forward(prediction.x_0), 1.0, rho))
        eps = prediction.eps - ratio(now.alpha, now.sigma) * shift
        noise = jax.random.normal(key, x_t.shape, x_t.dtype)
        renewed = root(1 - jnp.asarray(new)) * eps + root(jnp.asarray(new)) * noise
        return then.alpha * (prediction.x_0 + shift) + then.sigma * renewed, memory

    return ReverseStep(no_memory, step)
