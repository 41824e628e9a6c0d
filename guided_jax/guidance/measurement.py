"""Guidance by a linear measurement y = A x_0 + noise: inpainting, super-resolution, deblurring.

`reverse.dps` and `reverse.repaint` do the same within a step.

Sources: [PiGDM] Song et al., Pseudoinverse-guided diffusion models for inverse problems, ICLR 2023; [DDNM] Wang et al.
2212.00490.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import posterior_variance
from guided_jax.guidance.shift import by_score, by_x_0
from guided_jax.operators import Operator
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb, Scale, strength


def likelihood(operator: Operator, y: Float[Array, "..."], noise_std: ArrayLike) -> LogProb:
    """(x_0, level) -> -|y - A x_0|^2 / (2 noise_std^2): a log_prob for `universal`, `off_the_shelf` and `observe.log_prob`.

    operator: A.
    y: the measurement, of this example.
    noise_std: above 0, a number or traced value.
    """

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
    """score + scale J^T A^T (V A A^T + noise_std^2 I)^-1 (y - A x_0), J = dx_0 / dx_t ([PiGDM]).

    The law of x_0 given x_t is taken to be normal with variance V I, V = Var(x_0 | x_t) of normal data: exact for such
    data. V is the paper's r_t^2 for data_std = 1; the paper multiplies the term by r_t^2 once more, here it stays a
    score, for any sampler.
    denoise: the denoiser to guide.
    operator: A, of `operators`; through a decoder A and J^T A^T are the derivatives of its `forward`.
    y: the measurement, of this example.
    noise_std: of y, 0 for the pseudo-inverse.
    data_std: of the data.
    scale: 1 is the posterior. All three may be traced.
    Returns a denoiser, of one forward and one backward pass of the network.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> half = gj.operators.mask(jnp.array([1.0, 0.0]))
    >>> guided = gj.guidance.pigdm(mixture.denoiser(), half, jnp.array([0.7, 0.0]), noise_std=0.0, data_std=0.5)
    >>> x_0 = guided(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(1000), 500)).x_0
    >>> [round(float(value), 3) for value in x_0]
    [0.7, 0.0]
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        def of(x: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x, level)
            return operator.forward(prediction.x_0), prediction

        seen, back, prediction = jax.vjp(of, x_t, has_aux=True)
        variance, noise = posterior_variance(level, data_std), jnp.square(jnp.asarray(noise_std))
        (gradient,) = back(operator.solve(y - seen, variance, noise).astype(seen.dtype))
        return by_score(prediction, strength(scale, level) * gradient, level)

    return guided


def paste(
    denoise: Denoiser,
    observed: Array,
    image: Float[Array, "..."],
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
) -> Denoiser:
    """encode(observed image + (1 - observed) decode(x_0)) in the place of x_0, eps recomputed: inpainting of latents.

    The formula of [DDNM] for a mask, on the picture of the predicted x_0; `reverse.repaint` with nothing observed repeats
    the steps around it, by which the rest comes to fit.
    denoise: the denoiser to guide.
    observed: 1 (or True) where the picture is known, of its shape or broadcasting to it.
    image: the picture, of this example, in which the unknown part is ignored.
    encode: picture -> x_0.
    decode: x_0 -> picture.
    Returns a denoiser, of one forward pass of the network, the decoder and the encoder.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        pasted = jnp.where(jnp.asarray(observed) != 0, image, decode(prediction.x_0))
        return by_x_0(prediction, encode(pasted) - prediction.x_0, level)

    return guided
