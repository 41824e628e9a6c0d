"""Frequency-decoupled guidance. Source: [FDG] Sadat et al. 2506.19713.

Deviation. diffusers takes the Laplacian pyramid of kornia, with a blur of five taps, whose levels are those of a picture
padded to powers of two: of a latent of 96 x 96 it makes one of 128 x 128. Here a coarser picture is the antialiased linear
`jax.image.resize` to half the size, rounded up, a blur of the four taps (1, 3, 3, 1) / 8; sides may be of any length.
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def frequency_decoupled(conditional: Denoiser, unconditional: Denoiser, scales: Sequence[Scale]) -> Denoiser:
    """u + sum_i scale_i band_i(c - u), for x_0 and for eps; band_i of a Laplacian pyramid ([FDG]).

    band_i(d) = up^i(d_i - up(d_{i+1})), the last one up^i(d_i), where d_0 = d and d_{i+1} is d_i at half the size. They are
    linear in d, so that it makes no difference which view is decomposed, unlike for `rescale` and `tangential`.
    conditional, unconditional: denoisers, c and u, of pictures (h, w, channels), or of any axes before the channels.
    scales: one for each band, the finest first: numbers, traced values or functions of the level. Coarse bands of a small
        scale keep colours and variety, fine ones of a large scale add detail: (10, 5) for Stable Diffusion XL. Equal ones,
        or a single one, are `classifier_free`.
    Returns a denoiser, with the variance_fraction of the conditional one.
    Raises ValueError for no scale, and, when called, for x without an axis before the channels.

    >>> c = gj.denoiser.from_network(lambda x_t, time: jnp.ones_like(x_t), "x_0")
    >>> u = gj.denoiser.from_network(lambda x_t, time: jnp.zeros_like(x_t), "x_0")
    >>> guided = gj.guidance.frequency_decoupled(c, u, [10.0, 5.0])  # c - u is flat: all of it is in the coarse band
    >>> guided(jnp.zeros((2, 2, 1)), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.ravel().tolist()
    [5.0, 5.0, 5.0, 5.0]
    """
    if not scales:
        raise ValueError("there are no scales; give one for each band, the finest first")

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        if x_t.ndim < 2:
            raise ValueError(f"x has the shape {x_t.shape}, and so no frequencies; give (height, width, channels)")
        c, u = conditional(x_t, level), unconditional(x_t, level)
        strengths = [strength(scale, level) for scale in scales]
        x_0 = u.x_0 + _weighted(c.x_0 - u.x_0, strengths)
        return c._replace(x_0=x_0, eps=u.eps + _weighted(c.eps - u.eps, strengths))

    return guided


def _weighted(d: Array, strengths: Sequence) -> Array:
    """sum_i strength_i band_i(d), as strength_0 d + up(sum of (strength_i - strength_0) band_i of the smaller d)."""
    first, *coarser = strengths
    if not coarser:
        return first * d
    half = tuple((side + 1) // 2 for side in d.shape[:-1])
    smaller = jax.image.resize(d, (*half, d.shape[-1]), "linear")  # antialiased, where a picture becomes smaller
    rest = _weighted(smaller, [strength - first for strength in coarser])
    return first * d + jax.image.resize(rest, d.shape, "linear")
