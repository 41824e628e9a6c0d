"""The loop: from x_T down the levels to x_0, as one `lax.scan`, for one example; `jax.vmap` makes the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from guided_jax.denoiser import Denoiser, cached
from guided_jax.prediction import Prediction
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, at

Observe = Callable[[Array, Prediction, NoiseLevel], Any]


def sample(
    key,
    denoise: Denoiser,
    step: ReverseStep,
    x_T: Float[ArrayLike, "*shape"],
    levels: NoiseLevel,
    observe: Observe | None = None,
) -> Any:
    """x_T -> x_0 down the table of levels; (x_0, observations) when `observe` is given.

    key: of this example; each step folds in its position. x_T: (*shape), noise at the last level. levels: ascending, the
    clean one first. observe(x_t, prediction, level): anything worth keeping; stacked over the steps, the noisiest first.
    Raises ValueError for a denoiser that says nothing at the levels' alpha = 0.
    """
    x_0, _, observations = run(key, denoise, step, x_T, levels, observe)
    return x_0 if observe is None else (x_0, observations)


def run(
    key,
    denoise: Denoiser,
    step: ReverseStep,
    x_T: Float[ArrayLike, "*shape"],
    levels: NoiseLevel,
    observe: Observe | None = None,
) -> tuple[Array, Any, Any]:
    """The same, returning (x_0, the step's last memory, observations or None)."""
    x_T = jnp.asarray(x_T)
    x_T = x_T.astype(jnp.promote_types(x_T.dtype, jnp.float32))  # networks may work in less, the sampler's state never
    _refuse_early(denoise, x_T, levels)

    def body(carry: tuple[Array, Any], position: Array) -> tuple[tuple[Array, Any], Any]:
        x_t, memory = carry
        now, then = at(levels, position), at(levels, position - 1)
        key_step = jax.random.fold_in(key, position)
        if observe is None:
            return step.step(key_step, denoise, x_t, memory, now, then), None
        prediction = denoise(x_t, now)  # the step asks the same, and is given this answer
        asked = cached(prediction, x_t, now, denoise)
        return step.step(key_step, asked, x_t, memory, now, then), observe(x_t, prediction, now)

    positions = jnp.arange(len(levels.t) - 1, 0, -1)
    (x_0, memory), observations = jax.lax.scan(body, (x_T, step.init(x_T)), positions)
    return x_0, memory, observations


def encode(
    denoise: Denoiser,
    step: ReverseStep,
    x_0: Float[ArrayLike, "*shape"],
    levels: NoiseLevel,
) -> Array:
    """x_0 -> x_T, the noise from which `sample` would draw x_0: a deterministic step, up the levels.

    x_0 is taken to be at the first noisy level, as ADM's reverse DDIM does, and the last step goes to the last level;
    one call of the network a step. step: without noise, such as ddim() or dpm_solver(2): one that draws is refused by
    nobody, and decodes to something else.
    """
    x_0 = jnp.asarray(x_0)
    x_0 = x_0.astype(jnp.promote_types(x_0.dtype, jnp.float32))

    def body(carry: tuple[Array, Any], position: Array) -> tuple[tuple[Array, Any], None]:
        x_s, memory = carry
        unused = jax.random.key(0)
        return step.step(unused, denoise, x_s, memory, at(levels, position), at(levels, position + 1)), None

    return jax.lax.scan(body, (x_0, step.init(x_0)), jnp.arange(1, len(levels.t) - 1))[0][0]


def keys(key, indices: Int[ArrayLike, " n"]):
    """fold_in(key, index) for each global example index: example i never depends on batch, device or restart."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices))


def _refuse_early(denoise: Denoiser, x_T: Array, levels: NoiseLevel) -> None:
    """Inside the scan every level is traced; where the table is known, look at its alpha = 0 before compiling."""
    try:
        alpha = np.asarray(levels.alpha)
    except jax.errors.TracerArrayConversionError:
        return
    if alpha.min(initial=1.0) == 0:
        with jax.ensure_compile_time_eval():
            level = at(levels, int(alpha.argmin()))
        jax.eval_shape(lambda x_t: denoise(x_t, level), x_T)
