"""Eight CPU devices, shapes checked at every call, no silent rank promotion, nothing compiled twice: in the tests only."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Empty at the start and gone at the end; pytest's workers and the scripts that tests start inherit it.
    CACHE = tempfile.TemporaryDirectory(prefix="guided_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_disable_most_optimizations", True
)  # most of the time is compilation; the mathematics is the same

from jaxtyping import install_import_hook  # noqa: E402

# Every public signature of the library is checked by beartype while the tests run.
install_import_hook("guided_jax", "beartype.beartype")
