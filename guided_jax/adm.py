"""The earlier name of `pretrained.adm`, which stays importable."""

from guided_jax.pretrained.adm import *  # noqa: F403
from guided_jax.pretrained.adm import __all__ as __all__
