"""The loop: from x_T down the levels to x_0, as one `lax.scan`, for one example; `jax.vmap` makes the batch.

Source of Gibbs-like guidance: [CFGiG] Moufad et al. 2505.21101.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Num

from guided_jax.checks import check_key
from guided_jax.denoiser import Denoiser, cached, match_type
from guided_jax.forward import diffuse
from guided_jax.numerics import narrow_like, widen
from guided_jax.prediction import Prediction
from guided_jax.reverse.step import ReverseStep
from guided_jax.schedule import NoiseLevel, at, levels_like

Observe = Callable[[Array, Prediction, NoiseLevel], Any]


def sample(
    key,
    denoise: Denoiser,
    step: ReverseStep,
    x_T: Float[ArrayLike, "*shape"],
    levels: NoiseLevel,
    observe: Observe | None = None,
) -> Any:
    """x_T -> x_0, one example, by one step from each level to the one below; (x_0, observations) when `observe` is given.

    key: a JAX key, of this example; each step folds in its position. With keys of `keys`, of JAX's default implementation,
        an example does not depend on those beside it.
    denoise: (x_t, level) -> Prediction, guided or not.
    step: of `reverse`.
    x_T: (*shape), noise at the last level: levels.sigma[-1] * normal.
    levels: a table, the clean level first.
    observe: (x_t, prediction, level) -> a pytree to keep of each step; observations are stacked, noisiest first.
    Returns x_0, (*shape), in float32, or in float64 for a float64 x_T.
    Raises ValueError for a key that is a number, and for a network of eps or the score where the table has alpha = 0.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]))
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 8)
    >>> def draw(key):
    ...     x_T = jax.random.normal(key, (1,))
    ...     return gj.sampler.sample(key, mixture.denoiser(1), gj.reverse.ddim(), x_T, levels)
    >>> x_0 = jax.vmap(draw)(gj.sampler.keys(jax.random.key(0), jnp.arange(4)))
    >>> x_0.shape, bool(jnp.all(jnp.abs(x_0 - 1) < 0.5))
    ((4, 1), True)
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
    """`sample`, returning (x_0, the last memory of the step, observations or None).

    key, denoise, step, x_T, levels, observe: as for `sample`.

    >>> denoise = gj.denoiser.from_network(lambda x_t, time: jnp.zeros_like(x_t), "x_0")
    >>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 4)
    >>> step = gj.reverse.dpm_solver(2)
    >>> x_0, memory, _ = gj.sampler.run(jax.random.key(0), denoise, step, jnp.ones(3), levels)
    >>> x_0.tolist(), int(memory.made)
    ([0.0, 0.0, 0.0], 4)
    """
    check_key(key)
    denoise, given = match_type(denoise), levels
    x_T, levels = as_state(x_T, given)
    check_pure_noise(denoise, x_T, given)

    def body(carry: tuple[Array, Any], position: Array) -> tuple[tuple[Array, Any], Any]:
        x_t, memory = carry
        now, then = at(levels, position), at(levels, position - 1)
        key_step = jax.random.fold_in(key, position)
        if observe is None:
            return narrow_like(step.step(key_step, denoise, x_t, memory, now, then), carry), None
        prediction = denoise(x_t, now)  # the step's own call with this x_t and level returns the same prediction
        shared = cached(prediction, x_t, now, denoise)
        carry = narrow_like(step.step(key_step, shared, x_t, memory, now, then), carry)
        return carry, observe(x_t, prediction, now)

    positions = jnp.arange(len(levels.t) - 1, 0, -1)
    (x_0, memory), observations = jax.lax.scan(body, (x_T, step.init(x_T)), positions)
    return x_0, memory, observations


def gibbs_like(
    key,
    denoise: Denoiser,
    step: ReverseStep,
    x_0: Float[ArrayLike, "*shape"],
    levels: NoiseLevel,
    repeats: int,
) -> Array:
    """x_0 -> x_t = alpha x_0 + sigma eps -> x_0 by `sample`, `repeats` times: Gibbs-like guidance ([CFGiG]).

    With classifier-free guidance as `denoise`, from an x_0 of the conditional model: the guidance acts up to the noise of
    x_t alone, where it is nearly the score of the sharpened law, and the samples keep their variety. The law that is
    reached is nearer to p(x)^(1 - scale) p(x | c)^scale the lower that noise, and takes more repeats.
    key: a JAX key, of this example.
    denoise: (x_t, level) -> Prediction, guided.
    step: of `reverse`.
    x_0: (*shape), the sample that is begun with.
    levels: a short table, the clean level first, whose last one x_0 is noised to, such as grid.karras(levels, 10,
        sigma_max=1.0).
    repeats: at least 1.
    Returns x_0, (*shape).
    Raises ValueError for `repeats` below 1, and as `sample` does.

    >>> broad, narrow = (gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([s])) for s in (1.4, 1.0))
    >>> guided = gj.guidance.classifier_free(narrow.denoiser(), broad.denoiser(), 3.0)
    >>> short = gj.grid.karras(gj.schedule.cosine(1000), 8, sigma_max=0.5)
    >>> gj.sampler.gibbs_like(jax.random.key(0), guided, gj.reverse.dpm_solver(2), jnp.ones(3), short, 10).shape
    (3,)
    """
    check_key(key)
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; give at least 1")
    x, _ = as_state(x_0, levels)

    def body(x_0: Array, key) -> tuple[Array, None]:
        key_noise, key_run = jax.random.split(key)
        x_t = diffuse(x_0, jax.random.normal(key_noise, x_0.shape, x_0.dtype), at(levels, -1))
        return sample(key_run, denoise, step, x_t, levels), None

    return jax.lax.scan(body, x, keys(key, jnp.arange(repeats)))[0]


def encode(
    denoise: Denoiser,
    step: ReverseStep,
    x_0: Float[ArrayLike, "*shape"],
    levels: NoiseLevel,
) -> Array:
    """x_0 -> x_T, the noise from which `sample` would draw x_0, by one step from each level to the one above.

    denoise: (x_t, level) -> Prediction.
    step: deterministic, such as ddim() or dpm_solver(2); stochastic steps are not rejected, but `sample` does not lead
        back from their x_T.
    x_0: (*shape), taken to be at the first noisy level, as in ADM's reverse DDIM.
    levels: a table, the clean level first.
    Returns x_T, (*shape), at the last level.

    >>> mixture = gj.analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    >>> x_0, step, levels = jnp.array([0.5, -1.0]), gj.reverse.dpm_solver(2), gj.schedule.karras(12, 0.01, 20.0)
    >>> x_T = gj.sampler.encode(mixture.denoiser(), step, x_0, levels)
    >>> again = gj.sampler.sample(jax.random.key(0), mixture.denoiser(), step, x_T, levels)
    >>> bool(jnp.allclose(again, x_0, atol=0.05))
    True
    """
    x_0, levels = as_state(x_0, levels)
    denoise = match_type(denoise)

    def body(carry: tuple[Array, Any], position: Array) -> tuple[tuple[Array, Any], None]:
        x_s, memory = carry
        unused, now, then = jax.random.key(0), at(levels, position), at(levels, position + 1)
        return narrow_like(step.step(unused, denoise, x_s, memory, now, then), carry), None

    return jax.lax.scan(body, (x_0, step.init(x_0)), jnp.arange(1, len(levels.t) - 1))[0][0]


def keys(key, indices: Int[ArrayLike, " n"]):
    """fold_in(key, index) for each index: one key for each example of a data set or a request.

    key: a JAX key.
    indices: (n,), ints, of the examples among all, not in their batch: an example then never depends on batch, device
        or restart. Keys depend on the index alone for every implementation. Numbers drawn from them do so for
        "threefry2x32", JAX's default; under jax.vmap those of "rbg" and "unsafe_rbg" depend on the batch.
    Returns (n,) keys.
    Raises ValueError for a key that is a number.

    >>> gj.sampler.keys(jax.random.key(0), jnp.arange(4)).shape
    (4,)
    """
    check_key(key)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices))


def as_state(x: Num[ArrayLike, "*shape"], levels: NoiseLevel) -> tuple[Array, NoiseLevel]:
    """Return x in float32 at least, whatever the network computes in, and the levels in the type of x.

    x: (*shape).
    levels: a table.
    """
    state: Array = widen(x)
    return state, levels_like(levels, state.dtype)


def check_pure_noise(denoise: Denoiser, x: Array, levels: NoiseLevel) -> None:
    """Raise what denoise raises at alpha = 0, if the table has it, before compiling: inside a scan levels are traced.

    denoise: (x_t, level) -> Prediction.
    x: (*shape), in the type of the state.
    levels: the caller's table: inside a jit a cast of its columns is traced, and so not checked.
    """
    try:
        alpha = np.asarray(levels.alpha, x.dtype)
    except jax.errors.TracerArrayConversionError:
        return
    if alpha.min(initial=1.0) == 0:
        with jax.ensure_compile_time_eval():
            level = levels_like(at(levels, int(alpha.argmin())), x.dtype)
        jax.eval_shape(lambda x_t: denoise(x_t, level), x)
