"""CFG++. Source: [CFG++] Chung et al. 2406.08070, algorithm 2."""

from jaxtyping import Array, Float

from guided_jax.denoiser import Denoiser
from guided_jax.guidance.shift import by_difference
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import Scale, strength


def cfg_plus_plus(conditional: Denoiser, unconditional: Denoiser, scale: Scale) -> Denoiser:
    """x_0 = u + scale (c - u), eps = u: guided where it goes, renoised as if it were not ([CFG++] algorithm 2).

    scale: in [0, 1]; 0 is the unconditional model. It differs from `classifier_free` for the steps that read eps (DDIM and
    the ODE solvers; not DDPM). What recomputes eps (`clip`, `dynamic_threshold`, `rescale`) goes on the two denoisers, not
    on the result, where it would undo this.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        c, u = conditional(x_t, level), unconditional(x_t, level)
        return c._replace(x_0=by_difference(u, c, u, strength(scale, level)).x_0, eps=u.eps)

    return guided
