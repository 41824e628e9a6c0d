"""Metrics on held-out data, computed the same way for every network."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from guided_jax import data, parallel, sampler, training

Loss = Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]  # (params, keys, batch) -> (mean loss, metrics)


def make_evaluation(
    loss: Loss, source: data.Source, examples: int, batch_size: int, seed: int
) -> Callable[[Any], dict[str, float]]:
    """Return the function state -> {"held_out_loss": ..., ...} of its averaged parameters, computed on one device
    unless they are divided over several.

    Example i always gets the same noise, so the metrics change with the parameters only. examples: how many of the source
    at most. seed: of the noise.
    """
    count = min(len(source), examples)
    chunks = np.array_split(np.arange(count), -(-count // batch_size))
    size, key = len(chunks[-1]), jax.random.key(seed)  # of one size: at most a few are left out
    compiled = parallel.jit(loss)

    def evaluate_chunk(params: Any, rows: np.ndarray) -> Any:
        batch = source.read(rows)
        batch = {**batch, "image": data.scale(batch["image"])}
        value, metrics = compiled(params, sampler.keys(key, rows), batch)
        return jax.device_get({"loss": value, **metrics})

    def evaluate(state: Any) -> dict[str, float]:
        params = parallel.first_copy(state.ema)
        values = [evaluate_chunk(params, rows[:size]) for rows in chunks]
        means = jax.tree.map(lambda *leaves: float(np.mean(leaves)), *values)
        return {f"held_out_{name}": value for name, value in training.numbers(means).items()}

    return evaluate
