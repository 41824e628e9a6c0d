"""Several conditions at once: AND, NOT, and any difference of two predictions as a direction.

Source: [CD] Liu et al. 2206.01714. The sum of scores is the score of the product of the laws at t = 0 only: at a noisy
level the product of the diffused laws is not the diffused product, so the samples follow that product approximately.
"""

from collections.abc import Sequence

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def compose(conditionals: Sequence[Denoiser], unconditional: Denoiser, scales: Sequence[Scale]) -> Denoiser:
    """u + sum_i scale_i (c_i - u): every condition of a positive scale AND none of a negative one ([CD]).

    conditionals: denoisers, c_i; with a single one it is `classifier_free`.
    unconditional: a denoiser, u.
    scales: one for each conditional: numbers, traced values or functions of the level.
    Returns a denoiser, with the variance_fraction of the first conditional.
    Raises ValueError for no conditional, and for another number of scales.

    >>> network = lambda value: gj.denoiser.from_network(lambda x_t, time: jnp.full_like(x_t, value), "x_0")
    >>> guided = gj.guidance.compose([network(1.0), network(2.0)], network(0.0), [3.0, -1.0])
    >>> guided(jnp.zeros(2), gj.schedule.at(gj.schedule.cosine(10), 5)).x_0.tolist()
    [1.0, 1.0]
    """
    if not conditionals or len(conditionals) != len(scales):
        raise ValueError(f"{len(conditionals)} conditional denoisers and {len(scales)} scales; give one scale for each")

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        towards = [conditional(x_t, level) for conditional in conditionals]
        total = u = unconditional(x_t, level)
        for c, scale in zip(towards, scales, strict=True):
            total = by_difference(total, c, u, strength(scale, level))
        return total._replace(variance_fraction=towards[0].variance_fraction)

    return guided


def push(denoise: Denoiser, towards: Denoiser, away: Denoiser, scale: Scale) -> Denoiser:
    """d + scale (towards - away), for x_0 and for eps: one more direction on top of any guidance.

    denoise: a denoiser, d.
    towards, away: denoisers.
    scale: number, traced value or function of the level; 0 leaves d as it is. push(classifier_free(c, u, 4), c,
        perturbed, 3) is perturbed-attention guidance beside classifier-free guidance, push(classifier_free(c, u, 4), u,
        negative, 2) a negative condition that does not replace u.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        return by_difference(denoise(x_t, level), towards(x_t, level), away(x_t, level), strength(scale, level))

    return guided
