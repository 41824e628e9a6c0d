"""What the tests leave out of every program that they compile and of every run that they train, for the time it takes."""

import functools

from PIL import Image

from guided_jax.storage import log

PLOT = log.plot


def blank_curves(path, png, shared=None):
    """Write an empty picture where `log.plot` draws curves, which takes more than a second for each checkpoint."""
    if not log.read(path):
        raise ValueError(f"{path} holds no metrics yet")
    Image.new("L", (400, 300)).save(png, format="png")


def share_contexts(calls=200):
    """Let so many programs be lowered in one MLIR context: a new one for each takes as long as lowering a small program.

    A context keeps what was made in it, so a new one begins after so many.
    """
    from jax._src.interpreters import mlir

    make = getattr(mlir, "make_ir_context", None)
    if make is None:  # private to JAX, and elsewhere in some later version
        return
    held = functools.lru_cache(maxsize=1)(lambda number: make())
    count = iter(range(10**9))
    mlir.make_ir_context = lambda: held(next(count) // calls)
