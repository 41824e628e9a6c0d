"""CFG++. Source: [CFG++] Chung et al. 2406.08070, algorithm 2."""

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def cfg_plus_plus(conditional: Denoiser, unconditional: Denoiser, scale: Scale) -> Denoiser:
    """x_0 = u + scale (c - u), eps = u: x_0 is guided, and noised again with the unconditional eps ([CFG++] algorithm 2).

    conditional, unconditional: denoisers, c and u.
    scale: in [0, 1]; 0 is the unconditional model. It differs from `classifier_free` for the steps that read eps: DDIM,
        Heun, DEIS, the reverse SDE, Langevin; not DDPM, DPM-Solver++, UniPC. Apply guidance that recomputes eps
        (`clip`, `dynamic_threshold`, `rescale`) to the two denoisers: on the result it would replace u.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        return c._replace(x_0=by_difference(u, c, u, strength(scale, level)).x_0, eps=u.eps)

    return guided
