"""One optimization step as a pure function of any loss."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree


class TrainState(NamedTuple):
    """Everything that a step changes, and the key of all its noise, which never changes.

    step: number of steps done. ema: exponential moving average of the parameters.
    """

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    opt_state: PyTree
    key: Key[Array, ""]


class Part(NamedTuple):
    """A mean over a subset of the examples, which may be empty in a small batch.

    total: sum over the subset, and share: size of the subset, both divided by the size of the batch. Both can be averaged
    over devices and microbatches; `numbers` divides them.
    """

    total: Any
    share: Any


def part(values: Float[Array, " batch"], chosen: Bool[Array, " batch"]) -> Part:
    """Return the mean of the chosen values as a `Part` of their batch."""
    return Part(jnp.mean(jnp.where(chosen, values, 0)), jnp.mean(chosen))


def numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics with each `Part` divided, without those whose subset is empty."""
    whole = {name: value if isinstance(value, Part) else Part(value, 1) for name, value in metrics.items()}
    return {name: each.total / each.share for name, each in whole.items() if each.share}


def init(key: Key[Array, ""], params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step; `ema` starts as a copy of the parameters, so that both can be donated."""
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params), key)


def learning_rate_schedule(
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    decay: Literal["constant", "linear", "cosine"] = "cosine",
) -> optax.Schedule:
    """Return the function step -> learning rate: a linear rise for `warmup_steps`, then constant or a decay to 0.

    decay: how it falls to 0 at `num_steps`; "constant" does not. Raises ValueError when the warm-up does not end before
    `num_steps`.
    """
    if not 0 <= warmup_steps < num_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit in {num_steps} steps")
    rest = num_steps - warmup_steps
    schedule = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest),
    }[decay]
    if not warmup_steps:
        return schedule
    # From one warm-up step's worth, not from 0: the first step should do something.
    rise = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps)
    return optax.join_schedules([rise, schedule], [warmup_steps])


def optimizer(
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    decay: Literal["constant", "linear", "cosine"] = "cosine",
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Return AdamW behind a clip of the global gradient norm (None: no clip), with a `learning_rate_schedule`."""
    schedule = learning_rate_schedule(learning_rate, num_steps, warmup_steps, decay)
    adamw = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay)
    return adamw if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adamw)


def _identity(tree):
    return tree


def train_step(
    state: TrainState,
    batch: PyTree,
    indices: Int[ArrayLike, " batch"],
    *,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    ema_warmup: bool = True,
    microbatches: int = 1,
    learning_rate: optax.Schedule | None = None,
    average: Callable = _identity,
) -> tuple[TrainState, dict[str, Any]]:
    """Make one step of gradient descent; return the state after it and its metrics.

    Args:
      batch: leaves (B, ...).
      indices: (B,) positions of these examples in the global batch. Example i of step n always gets the key
        `fold_in(fold_in(state.key, n), i)`, on whichever device it is computed.
      loss: (params, keys, batch) -> (mean over the examples, dict of metrics).
      ema_decay: of `ema`; with `ema_warmup` at most (1 + step) / (10 + step), to forget the initial weights.
      microbatches: number of parts computed one after the other, for the memory of one and the gradient of all.
      learning_rate: step -> learning rate, only to report it.
      average: takes the mean of gradients and metrics over devices.

    Metrics, each a scalar or a `Part`: "loss", those of the loss function, "grad_norm" before clipping, "update_norm" of
    the change of the parameters, "param_norm" after it, and "learning_rate" where it is given.

    Raises ValueError when the batch does not divide into microbatches.
    """
    _check(state, batch, indices)
    key = jax.random.fold_in(state.key, state.step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(indices)
    gradients, metrics = average(_gradients(loss, state.params, (keys, batch), microbatches))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step)) if ema_warmup else ema_decay
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    metrics |= {"grad_norm": optax.tree.norm(gradients), **_norms(state.params, params)}
    if learning_rate is not None:
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.step), jnp.float32)
    return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics


def _norms(before, after):
    """Return the norms of the change of the parameters and of the parameters.

    Behind a barrier: reading intermediate values would change how XLA fuses the update, and with it its last bits.
    """
    after = jax.lax.optimization_barrier(after)
    return {"update_norm": optax.tree.norm(optax.tree.sub(after, before)), "param_norm": optax.tree.norm(after)}


def _check(state, batch, indices):
    """Check shapes and types, at trace time only."""
    chex.assert_trees_all_equal_shapes_and_dtypes(state.params, state.ema)
    chex.assert_rank(indices, 1)
    chex.assert_tree_shape_prefix(batch, indices.shape)


def _gradients(loss, params, examples, microbatches):
    """Return the means over the examples of the gradient and of the metrics, "loss" among them."""

    def one(examples):
        (value, extra), gradients = jax.value_and_grad(loss, has_aux=True)(params, *examples)
        chex.assert_rank((value, *jax.tree.leaves(extra)), 0)
        return gradients, {"loss": value, **extra}

    if microbatches == 1:
        return one(examples)
    size = len(jax.tree.leaves(examples)[0])
    if size % microbatches:
        raise ValueError(f"{size} examples on a device do not divide into {microbatches} microbatches")
    parts = jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), examples)
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], parts)))
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, one(part)), None), nothing, parts)
    return jax.tree.map(lambda leaf: leaf / microbatches, total)
