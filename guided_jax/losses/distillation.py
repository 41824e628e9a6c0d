"""Guidance distillation: a network that is told the scale learns a guided prediction, which it then makes in one call.

Source: [GD] Meng et al. 2210.03142, section 3.1.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from guided_jax.losses.denoising import Noisy, streams
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel

Teacher = Callable[[Array, NoiseLevel, PyTree, Array], Prediction]  # (x_t, level, condition, scale), one example


def draw_scales(keys: Key[Array, " batch"], low: ArrayLike, high: ArrayLike) -> Float[Array, " batch"]:
    """w uniform in low..high, one an example ([GD] section 3.1).

    keys: (B,) JAX keys, those of the other losses: the draw is independent of theirs.
    low, high: scales.
    Returns (B,).

    >>> scales = gj.losses.draw_scales(jax.random.split(jax.random.key(0), 100), 1.0, 4.0)
    >>> bool((scales >= 1).all() and (scales < 4).all())
    True
    """

    def one(key: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(streams(key)[4], 0), minval=low, maxval=high)

    return jax.vmap(one)(keys)


def teach(noisy: Noisy, teacher: Teacher, condition: PyTree, scale: Float[Array, " batch"]) -> Noisy:
    """The same x_t, with the teacher's guided prediction in the place of the truth ([GD] section 3.1).

    `denoising` then compares a network to it, in whatever it predicts. The target is a function of what the network is
    given, so that the least loss is 0, and only the guided denoiser itself has it.
    noisy: as `corrupt` returns it.
    teacher: (x_t, level, condition, scale) -> Prediction, of one example, such as `classifier_free` of a trained network.
    condition: a pytree of (B, ...) leaves.
    scale: (B,), which the network is told too.
    Returns Noisy, without a gradient to the teacher.

    >>> keys, levels = jax.random.split(jax.random.key(0), 4), gj.schedule.cosine(10)
    >>> teacher = lambda x_t, level, label, scale: gj.prediction.from_x_0(scale * jnp.ones_like(x_t), x_t, level)
    >>> scale = jnp.array([1.0, 2.0, 3.0, 4.0])
    >>> noisy = gj.losses.teach(gj.losses.corrupt(keys, jnp.zeros((4, 2)), levels), teacher, jnp.zeros(4), scale)
    >>> network = lambda x_t, times, scale, keys: scale[:, None] * jnp.ones_like(x_t)
    >>> gj.losses.denoising(network, noisy, scale, levels, "x_0").tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    taught = jax.vmap(teacher)(noisy.x_t, noisy.level, condition, scale)
    return noisy._replace(truth=jax.lax.stop_gradient(Prediction(taught.x_0, taught.eps)))
