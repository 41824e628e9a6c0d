"""Programs that are compiled before they are first called; train steps, one or several in one call of such a program."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def scan_steps(step: Callable) -> Callable:
    """Return the function (state, batches (k, ...), indices) -> (the state after k steps, their metrics (k,))."""

    def scanned(state, batches, indices):
        return jax.lax.scan(lambda state, batch: step(state, batch, indices), state, batches)

    return scanned


def compile_program(lowered: jax.stages.Lowered, options: dict[str, Any]) -> jax.stages.Compiled:
    """Compile a program with these options of XLA, and give back the memory that compiling took.

    The C library keeps for the next allocation what a compiler frees; here that is several hundred MiB, which would be
    held while the program runs and makes its own large buffers beside it.
    """
    program = lowered.compile(options)
    give_back_memory()
    return program


def give_back_memory() -> None:
    """Return to the system what this process has freed, where the C library is glibc; else do nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def compile_with(options: dict[str, Any], function: Any) -> Callable:
    """Return a function of `jax.pmap` that XLA compiles with these options, once for the same shapes and types."""
    if not options:
        return function
    programs: dict[Any, Callable] = {}

    def call(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in programs:
            programs[key] = compile_program(function.lower(*arguments), options)
        return programs[key](*arguments)

    return call


def make_step(single: Callable, scanned: Callable, put: Callable, scan: bool) -> Callable:
    """Return `step(state, batch_1, ..., batch_k) -> (state, metrics)`.

    single, scanned: the compiled step and the compiled `scan_steps` of it. put: batches -> the arguments after the state,
    placed on the devices. scan: whether several batches are one call of `scanned`, or one of `single` each.
    """

    def step(state, *batches):
        if len(batches) == 1 or scan:
            return (single if len(batches) == 1 else scanned)(state, *put(*batches))
        rows = []
        for batch in batches:
            state, metrics = step(state, batch)
            rows.append(metrics)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return step
