"""Guidance for diffusion models as small pure functions in JAX and Flax.

>>> import guided_jax as gj
>>> levels = gj.schedule.respace(gj.schedule.cosine(1000), 50)

Every public module is an attribute, imported when it is first used. The symbols of every docstring and argument list:

| symbol       | meaning                                                                                      |
|--------------|----------------------------------------------------------------------------------------------|
| `x_0`, `eps` | clean example, standard normal noise                                                         |
| `x_t`, `x_s` | noisy examples, s < t                                                                        |
| `alpha`, `sigma` | amplitudes: x_t = alpha x_0 + sigma eps. VP: alpha^2 + sigma^2 = 1. VE / EDM: alpha = 1  |
| `t`          | step, float: 0 clean, 1..T noise, fractional off the grid                                    |
| `level`      | `NoiseLevel(t, alpha, sigma)`; in a step `now` is where x is, `then` is where it goes        |
| `score`      | grad_x log p(x_t) = -eps / sigma                                                             |
| `v`          | alpha eps - sigma x_0                                                                        |
| `scale`      | guidance strength: 0 ignores the label, 1 is the exact conditional, above 1 is sharper       |

Everything that computes is written for one example of shape `(*shape)` and one scalar level; `jax.vmap` makes the batch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports each on first use
    from guided_jax import adm as adm
    from guided_jax import analytic as analytic
    from guided_jax import certificate as certificate
    from guided_jax import criteria as criteria
    from guided_jax import data as data
    from guided_jax import denoiser as denoiser
    from guided_jax import forward as forward
    from guided_jax import grid as grid
    from guided_jax import guidance as guidance
    from guided_jax import likelihood as likelihood
    from guided_jax import losses as losses
    from guided_jax import metrics as metrics
    from guided_jax import model as model
    from guided_jax import models as models
    from guided_jax import operators as operators
    from guided_jax import parallel as parallel
    from guided_jax import particles as particles
    from guided_jax import prediction as prediction
    from guided_jax import pretrained as pretrained
    from guided_jax import reverse as reverse
    from guided_jax import sampler as sampler
    from guided_jax import schedule as schedule
    from guided_jax import stateful as stateful
    from guided_jax import storage as storage
    from guided_jax import training as training

__version__ = "0.1.0"

MATHEMATICS = ("schedule", "grid", "forward", "prediction", "denoiser", "operators", "stateful", "model")
METHODS = ("criteria", "guidance", "reverse", "sampler", "particles", "likelihood", "analytic", "losses", "certificate")
MACHINERY = ("training", "storage", "models", "pretrained", "adm", "data", "metrics", "parallel")
__all__ = [*MATHEMATICS, *METHODS, *MACHINERY]


def __getattr__(name: str) -> Any:
    """Import a public module when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'guided_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    return importlib.import_module(f"guided_jax.{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
