"""Eight CPU devices, shapes checked at every call, no silent rank promotion: in the tests only."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_disable_most_optimizations", True
)  # most of the time is compilation; the mathematics is the same

from jaxtyping import install_import_hook  # noqa: E402

# Every public signature of the library is checked by beartype while the tests run.
install_import_hook("guided_jax", "beartype.beartype")
