"""One optimization step as a pure function, and the loop that repeats it. Which loss it is, is not known here."""

import functools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Int, Key, PyTree, Scalar
from tqdm import tqdm

from guided_jax import checkpoint, log


class TrainState(NamedTuple):
    """Everything that a step changes, and the key that all its noise comes from (which never changes)."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    opt_state: PyTree
    key: Key[Array, ""]


def init(key: Key[Array, ""], params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts at the parameters, as a copy so that both can be donated."""
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params), key)


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
    """AdamW behind a clip of the global gradient norm (None: no clip).

    The learning rate rises linearly for `warmup_steps` and then stays, or decays to 0 at `num_steps`.
    Raises ValueError when the warm-up does not end before `num_steps`.
    """
    if not 0 <= warmup_steps < num_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit in {num_steps} steps")
    rest = num_steps - warmup_steps
    schedule = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest),
    }[decay]
    if warmup_steps:
        # From one warm-up step's worth, not from 0: the first step should do something.
        rise = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps)
        schedule = optax.join_schedules([rise, schedule], [warmup_steps])
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
    average: Callable = _identity,
) -> tuple[TrainState, dict[str, Scalar]]:
    """One step of gradient descent on `loss(params, keys, batch) -> (mean over the examples, dict of scalar metrics)`.

    Leaves of `batch` are (B, ...); `indices` says which examples of the global batch these are. Example i of step n
    always gets the key `fold_in(fold_in(state.key, n), i)`, wherever it is computed. `average` takes the mean of
    gradients and metrics over devices. With `ema_warmup` the decay is at most (1 + step) / (10 + step), to forget the
    initial weights. Metrics: "loss", "grad_norm" (before clipping), and the loss function's own.
    """
    _check(state, batch, indices)
    key = jax.random.fold_in(state.key, state.step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(indices)
    (value, extra), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, keys, batch)
    chex.assert_rank((value, *extra.values()), 0)
    gradients, metrics = average((gradients, {"loss": value, **extra}))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step)) if ema_warmup else ema_decay
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    metrics = {**metrics, "grad_norm": optax.tree.norm(gradients)}
    return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics


def _check(state, batch, indices):
    """Static facts only: nothing is left of this in the compiled step."""
    chex.assert_trees_all_equal_shapes_and_dtypes(state.params, state.ema)
    chex.assert_rank(indices, 1)
    chex.assert_tree_shape_prefix(batch, indices.shape)


def fit(
    step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Scalar]]],
    state: TrainState,
    batches: Any,
    num_steps: int,
    *,
    directory: str | os.PathLike,
    config: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    save_every: int = 500,
    log_every: int = 50,
    keep: int = 2,
    hooks: Sequence[tuple[int, Callable[[int, TrainState], Any]]] = (),
    label: str = "training",
) -> TrainState:
    """Repeats the compiled `step(state, batch)` until `num_steps` are done, from the last checkpoint if there is one.

    `state` is placed on its devices, and destroyed if `step` donates. `batches` is an iterator with `get_state()` and
    `set_state()`, such as `data.loader` gives. `directory` receives `metrics.jsonl`, a row every `log_every` steps, and
    `checkpoints/`, of which the last `keep` stay; one is saved every `save_every` steps and at the end, with the
    position of `batches` and `config`. A resumed run repeats an uninterrupted one bit for bit on the same devices.
    `hooks` are (every, function): the function is called with (steps done, state) and must not keep the state, whose
    memory the next step reuses.

    Raises ValueError when the checkpoint was made with another `config` (the dotted names in `ignore` may differ) or
    the data ends, FloatingPointError when the loss is no longer finite, OSError when `directory` cannot be written.
    """
    with checkpoint.opened(Path(directory) / "checkpoints", keep) as saved:
        rows = Path(directory) / "metrics.jsonl"
        state = _resume(saved, state, batches, config, ignore)
        log.truncate(rows, int(state.step))
        waiting = None
        for done, batch, bar in _progress(batches, int(state.step), num_steps, label):
            state, metrics = step(state, batch)
            # Metrics are fetched after the next step was sent off, so that the device never waits for this.
            waiting = _record(rows, waiting, bar)
            if done % log_every == 0 or done == num_steps:
                waiting = (done, metrics)
            if done % save_every == 0 or done == num_steps:
                _finite(done, metrics)
                waiting = _record(rows, waiting, bar)
                checkpoint.save(saved, done, state, batches.get_state(), config)
            for every, hook in hooks:
                if done % every == 0:
                    hook(done, state)
    return state


def _resume(saved, state, batches, config, ignore):
    if checkpoint.latest(saved.directory) is None:
        return state
    found = checkpoint.restore(saved.directory, state, config=config, ignore=ignore)
    batches.set_state(found.data_state)
    return found.state


def _progress(batches, start, num_steps, label):
    """The number of each step, counted from 1, its batch and the progress bar (drawn rarely where no one watches)."""
    pause = 0.2 if sys.stderr.isatty() else 20.0
    with tqdm(total=num_steps, initial=min(start, num_steps), desc=label, mininterval=pause, unit="step") as bar:
        for done in range(start + 1, num_steps + 1):
            try:
                batch = next(batches)
            except StopIteration:
                raise ValueError(
                    f"the data ended before step {done} of {num_steps}; let the loader repeat it"
                ) from None
            yield done, batch, bar
            bar.update()


def _record(rows, waiting, bar):
    """Writes the row that is waiting, if one is; nothing waits afterwards."""
    if waiting is not None:
        done, metrics = waiting
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        _finite(done, values)
        bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        log.append(rows, {"step": done, "loss": values.pop("loss"), **values})


def _finite(done, metrics):
    if not math.isfinite(float(metrics["loss"])):
        raise FloatingPointError(f"the loss is {float(metrics['loss'])} at step {done}; try a lower learning rate")
