"""One call of a network for all who ask it the same."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


def call_once(guide: Callable[..., Denoiser], *denoisers: Denoiser) -> Denoiser:
    """guide(*denoisers), each of them called once however often the guide names it.

    call_once(lambda c: push(classifier_free(c, u, 4.0), c, bad, 3.0), net(label)) calls net(label) once, not twice.
    """

    def shared(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        answers = [cached(denoise(x_t, level), x_t, level, denoise) for denoise in denoisers]
        return guide(*answers)(x_t, level)

    return shared


def batched(net: Callable[[Any], Denoiser], conditions: PyTree, guide: Callable[..., Denoiser]) -> Denoiser:
    """guide(net(conditions[0]), net(conditions[1]), ...) with every net asked in one vmapped call.

    net: condition -> denoiser. conditions: a pytree whose leaves have a leading axis, one entry a condition; with labels,
    jnp.array([label, null]). guide: denoisers -> denoiser, for instance `lambda c, u: classifier_free(c, u, 3.0)`. The
    result is that of separate calls; an accelerator sees one batch twice as large.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        together = jax.vmap(lambda condition: net(condition)(x_t, level))(conditions)
        answers = []
        for i in range(len(jax.tree.leaves(conditions)[0])):
            condition, prediction = (jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (conditions, together))
            answers.append(cached(prediction, x_t, level, net(condition)))
        return guide(*answers)(x_t, level)

    return guided
