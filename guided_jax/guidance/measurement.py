"""Guidance by a linear measurement y = A x_0 + noise: inpainting, super-resolution, deblurring.

As steps rather than denoisers there are `reverse.dps` and `reverse.repaint`.

Source: [PiGDM] Song et al., Pseudoinverse-guided diffusion models, ICLR 2023.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import posterior_variance
from guided_jax.guidance.shift import by_score
from guided_jax.operators import Operator
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb, Scale, strength


def likelihood(operator: Operator, y: Float[Array, "..."], noise_std: ArrayLike) -> LogProb:
    """(x_0, level) -> -|y - A x_0|^2 / (2 noise_std^2): for `universal`, `off_the_shelf` and `observe.log_prob`."""

    def log_prob(x_0: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        return -jnp.sum(jnp.square(y - operator.forward(x_0))) / (2 * jnp.square(noise_std))

    return log_prob


def pigdm(
    denoise: Denoiser,
    operator: Operator,
    y: Float[Array, "..."],
    noise_std: ArrayLike = 0.0,
    data_std: ArrayLike = 0.5,
    scale: Scale = 1.0,
) -> Denoiser:
    """score + scale J^T A^T (V A A^T + noise_std^2 I)^-1 (y - A x_0), J = dx_0 / dx_t ([PiGDM] section 3).

    x_0 given x_t is taken to be normal with variance V I, V that of data of standard deviation data_std: exact for normal
    data. V is the paper's r_t^2 with data_std 1; unlike there the step does not weigh the term by r_t^2 once more, so that
    it is a score, and any sampler's. y: of this example. noise_std, data_std: numbers or traced values; noise_std 0 is the
    pseudo-inverse. One forward and one backward pass of the network.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        def of(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, level)
            return prediction.x_0, prediction

        x_0, back, prediction = jax.vjp(of, x_t, has_aux=True)
        variance, noise = posterior_variance(level, data_std), jnp.square(jnp.asarray(noise_std))
        (gradient,) = back(operator.adjoint(operator.solve(y - operator.forward(x_0), variance, noise)))
        return by_score(prediction, strength(scale, level) * gradient, level)

    return guided
