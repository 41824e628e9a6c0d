"""What a network being trained is worth on data that it never saw: of every network the same way."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from guided_jax import data, sampler, training


def evaluation(
    loss: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]],
    source: data.Source,
    examples: int,
    batch_size: int,
    seed: int,
) -> Callable[[Any], dict[str, float]]:
    """state -> the metrics of its averaged weights on held-out data, with noise that is always the same.

    loss: (params, keys, batch) -> (mean loss, metrics). examples: how many of the source, at most.
    """
    count = min(len(source), examples)
    chunks = np.array_split(np.arange(count), -(-count // batch_size))
    size, key = len(chunks[-1]), jax.random.key(seed)  # of one size: at most a few are left out
    compiled = jax.jit(loss)

    def measure(params: Any, rows: np.ndarray) -> Any:
        batch = source.read(rows)
        batch = {**batch, "image": data.scale(batch["image"])}
        value, metrics = compiled(params, sampler.keys(key, rows), batch)
        return jax.device_get({"loss": value, **metrics})

    def evaluate(state: Any) -> dict[str, float]:
        found = [measure(state.ema, rows[:size]) for rows in chunks]
        means = jax.tree.map(lambda *values: float(np.mean(values)), *found)
        return {f"held_out_{name}": value for name, value in training.numbers(means).items()}

    return evaluate
