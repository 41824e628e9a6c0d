"""Calls that are left out at some steps: by a branch of the program that stays one in a batch, and a count of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int

from guided_jax.prediction import Prediction


def saved_calls(memory: Any) -> Int[Array, ""]:
    """Return at how many steps of a run `adaptive` or `reused` has not called u, 0 for another guidance.

    memory: the last of `sampler.run`, or any pytree with a state in it that has a field `saved`. A sampler of two calls a
        step has saved both.
    """
    states = jax.tree.leaves(memory, is_leaf=_counts)
    return sum((state.saved for state in states if _counts(state)), jnp.int32(0))


def _counts(node: Any) -> bool:
    return hasattr(node, "saved")


@custom_vmap
def of_all(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """flag; under vmap whether it holds for all examples, a single value, of which a `cond` stays a `cond`."""
    return flag


@of_all.def_vmap
def _of_all_examples(axis_size: int, in_batched: Any, flag: Any) -> tuple[Any, bool]:
    return of_all(jnp.all(flag, axis=0)), False


def like(prediction: Prediction, other: Prediction) -> tuple[Array, Array]:
    """Return x_0 and eps of a prediction with the dtypes of the other one: both branches of a `cond` need the same."""
    return prediction.x_0.astype(other.x_0.dtype), prediction.eps.astype(other.eps.dtype)
