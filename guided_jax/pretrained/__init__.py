"""Published weights in our networks: one module for each family, `state_dict` for what they share, `readers` of files.

`load` reads a whole published model: a folder in the layout of diffusers, or a single file.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports each on first use
    from guided_jax.pretrained import adm as adm
    from guided_jax.pretrained import autoencoder as autoencoder
    from guided_jax.pretrained import bert as bert
    from guided_jax.pretrained import clip as clip
    from guided_jax.pretrained import dit as dit
    from guided_jax.pretrained import edm2 as edm2
    from guided_jax.pretrained import inception as inception
    from guided_jax.pretrained import pickles as pickles
    from guided_jax.pretrained import posthoc as posthoc
    from guided_jax.pretrained import published as published
    from guided_jax.pretrained import readers as readers
    from guided_jax.pretrained import stable_diffusion as stable_diffusion
    from guided_jax.pretrained import state_dict as state_dict
    from guided_jax.pretrained import t5 as t5
    from guided_jax.pretrained import tokens as tokens
    from guided_jax.pretrained import weight_files as weight_files
    from guided_jax.pretrained.published import load as load

MODULES = (
    "adm",
    "autoencoder",
    "bert",
    "clip",
    "dit",
    "edm2",
    "inception",
    "pickles",
    "posthoc",
    "published",
    "readers",
    "stable_diffusion",
    "state_dict",
    "t5",
    "tokens",
    "weight_files",
)
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import a module when it is first asked for."""
    if name == "load":
        return importlib.import_module("guided_jax.pretrained.published").load
    if name not in MODULES:
        raise AttributeError(f"module 'guided_jax.pretrained' has no attribute {name!r}; it has {', '.join(MODULES)}")
    return importlib.import_module(f"guided_jax.pretrained.{name}")
