"""Self-attention guidance: away from the prediction for a blurred x_0. Source: [SAG] Hong et al. 2210.00939."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from guided_jax.denoiser import Denoiser
from guided_jax.forward import diffuse
from guided_jax.guidance.call_once import call_once
from guided_jax.guidance.classifier_free import autoguidance
from guided_jax.operators import gaussian_blur
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale

Mask = Callable[[Array, NoiseLevel], Array]  # (x_t, level) -> (height, width), 1 where to blur


def self_attention(denoise: Denoiser, scale: Scale, std: ArrayLike = 1.0, mask: Mask | None = None) -> Denoiser:
    """b + scale (d - b), b = blurred(d): for any network, conditional or not ([SAG]; its s is scale - 1).

    denoise: the denoiser to guide, d.
    scale: number, traced value or function of the level.
    std, mask: as for `blurred`.
    Returns a denoiser, of two calls of the network, and the calls of the mask.
    """
    return call_once(lambda d: autoguidance(d, blurred(d, std, mask), scale), denoise)


def blurred(denoise: Denoiser, std: ArrayLike = 1.0, mask: Mask | None = None) -> Denoiser:
    """denoise(alpha blur(x_0) + sigma eps), with the x_0 and eps of denoise(x_t) ([SAG] algorithm 1).

    denoise: a denoiser of pictures (h, w, c).
    std: of the blur, in pixels, number or traced value.
    mask: (x_t, level) -> (h, w), above 0 where to blur: where the network attends to (`models.attention_mass` > 1);
        everywhere if None.
    Returns a denoiser.
    """

    def bad(x_t: Float[Array, "h w c"], level: NoiseLevel) -> Prediction:
        first = denoise(x_t, level)
        smooth = gaussian_blur(x_t.shape[0], x_t.shape[1], std).forward(first.x_0)
        if mask is not None:
            smooth = jnp.where(mask(x_t, level)[..., None] > 0, smooth, first.x_0)
        second = denoise(diffuse(smooth, first.eps, level), level)
        # The x_0 of x_t instead of the blurred one: alpha x_0 + sigma eps is x_t again, without a division by alpha.
        return first._replace(x_0=second.x_0 + (first.x_0 - smooth), eps=second.eps)

    return bad
