"""Call each network once, however often a guidance uses it."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.schedule import NoiseLevel


def call_once(guide: Callable[..., Denoiser], *denoisers: Denoiser) -> Denoiser:
    """guide(*denoisers), with one call of each denoiser, however often the guide uses it.

    guide: denoisers -> denoiser.
    denoisers: its arguments. For instance, call_once(lambda c: push(classifier_free(c, u, 4.0), c, bad, 3.0),
        net(label)) calls net(label) once, not twice.
    """

    def shared(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        called = [cached(denoise(x_t, level), x_t, level, denoise) for denoise in denoisers]
        return guide(*called)(x_t, level)

    return shared


def batched(
    net: Callable[[Any], Denoiser], conditions: PyTree, guide: Callable[..., Denoiser], loop: bool = False
) -> Denoiser:
    """guide(net(conditions[0]), net(conditions[1]), ...), with the network once in the program, for all conditions.

    net: condition -> denoiser.
    conditions: a pytree whose leaves have a leading axis, one entry for each condition; of labels, jnp.array([label,
        null]).
    guide: denoisers -> denoiser, for instance `lambda c, u: classifier_free(c, u, 3.0)`. The result is that of separate
        calls.
    loop: call the network for one condition after the other, by `lax.map`, and not for all at once, by `vmap`. Of two
        conditions a loop takes half as long to compile as separate calls, and no longer to run on CPU; an accelerator is
        faster with one batch that is twice as large.
    """

    def guided(x_t: Float[Array, "*shape"], level: NoiseLevel) -> Prediction:
        def call(condition: PyTree) -> Prediction:
            return net(condition)(x_t, level)

        predictions = jax.lax.map(call, conditions) if loop else jax.vmap(call)(conditions)
        called = []
        for i in range(len(jax.tree.leaves(conditions)[0])):
            condition, prediction = (
                jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (conditions, predictions)
            )
            called.append(cached(prediction, x_t, level, net(condition)))
        return guide(*called)(x_t, level)

    return guided
