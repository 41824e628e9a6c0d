"""One training step a call, or several."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def several(step: Callable) -> Callable:
    """(state, batches (k, ...), indices) -> the state after k steps, their metrics (k,)."""

    def scanned(state, batches, indices):
        return jax.lax.scan(lambda state, batch: step(state, batch, indices), state, batches)

    return scanned


def stepper(single: Callable, scanned: Callable, put: Callable, scan: bool) -> Callable:
    """`step(state, batch_1, ..., batch_k)` of the compiled step and the compiled `several`; `put` places its batches."""

    def step(state, *batches):
        if len(batches) == 1 or scan:
            return (single if len(batches) == 1 else scanned)(state, *put(*batches))
        rows = []
        for batch in batches:
            state, metrics = step(state, batch)
            rows.append(metrics)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return step
