"""Settings of JAX in the environment that would change numbers: the commands draw and train with JAX's own defaults."""

import os
import sys

# Variable -> the default. Keys of another kind draw other noise, some of them by the batch; 64 bits draw other noise too,
# and labels; strict promotion of types ends the optimizers of optax. JAX_DEFAULT_MATMUL_PRECISION changes how an
# accelerator rounds, as the accelerator itself does, and is left alone; so are the variables that only check or show.
DEFAULTS = {
    "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_THREEFRY_PARTITIONABLE": True,
    "JAX_RANDOM_SEED_OFFSET": 0,
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": False,
    "JAX_ENABLE_X64": False,
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
}
TRUE = ("y", "yes", "t", "true", "on", "1")  # as JAX reads them


def ignore() -> None:
    """Take the variables that are not at JAX's defaults out of the environment, with one note that names them."""
    given = {name: os.environ.pop(name) for name in DEFAULTS if name in os.environ}
    changing = {name: text for name, text in given.items() if text and not _is_default(name, text)}
    if not changing:
        return
    named = ", ".join(f"{name}={text}" for name, text in changing.items())
    print(f"note: ignoring {named}, so that a seed means the same numbers everywhere", file=sys.stderr)
    if "jax" in sys.modules:  # which has read them already
        import jax

        for name in changing:
            jax.config.update(name.lower(), DEFAULTS[name])


def _is_default(name: str, text: str) -> bool:
    default, text = DEFAULTS[name], text.lower()
    return (text in TRUE) == default if isinstance(default, bool) else text == str(default)
