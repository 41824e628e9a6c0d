"""The autoencoder of a run: its weights beside those of the diffusion network, and with them from pictures to x and back.

The folder `autoencoder` of a run holds its checkpoints, and whitening.json: for each channel the mean and the standard
deviation of the latents of the training data, by which x has mean 0 and standard deviation 1.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from guided_jax import parallel
from guided_jax.model import Model
from guided_jax.models import latent
from guided_jax.storage import checkpoint
from guided_jax.storage.files import replacing

FOLDER, NAME = "autoencoder", "whitening.json"
DECODE_SIZE = (
    16  # pictures that the decoder makes at once on each device: it may need more memory than all steps before
)


class Whitening(NamedTuple):
    """x = (z - shift) scale, a number for each channel. step: of the checkpoint of the autoencoder that z is of."""

    step: int
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return shift and scale as the parameters of a model have them."""
        return {"shift": np.asarray(self.shift, np.float32), "scale": np.asarray(self.scale, np.float32)}


def read_whitening(directory: Path) -> Whitening | None:
    """Return the whitening of a run, None where there is none yet; ValueError for a damaged file."""
    path = directory / FOLDER / NAME
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        return Whitening(int(found["step"]), *(tuple(map(float, found[name])) for name in ("shift", "scale")))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; delete it, and train again to have it written") from None


def write_whitening(directory: Path, whitening: Whitening) -> None:
    """Write whitening.json."""
    with replacing(directory / FOLDER / NAME) as file:
        file.write(json.dumps(whitening._asdict(), indent=2).encode())


def step_of(directory: Path) -> int | None:
    """Return the step of the last checkpoint of the autoencoder, None where there is none."""
    return checkpoint.latest(_checkpoints(directory))


def load_weights(directory: Path, step: int, sharding: Any = None) -> Any:
    """Return the averaged weights of the autoencoder at a step. sharding: as for `checkpoint.load_params`."""
    return checkpoint.load_params(_checkpoints(directory), "ema", step, sharding)


def _checkpoints(directory: Path) -> Path:
    return directory / FOLDER / "checkpoints"


def complete(directory: Path | None, weights: Any, sharding: Any = None) -> dict[str, Any]:
    """Return the parameters of a run's model: the weights of its "network", its "autoencoder" and its "whitening".

    sharding: as for `checkpoint.load_params`. Raises ValueError for a run whose latents were not computed yet.
    """
    if directory is None:
        raise ValueError("this run has no directory, and so no autoencoder")
    whitening = read_whitening(directory)
    if whitening is None or not (_checkpoints(directory) / str(whitening.step)).is_dir():
        raise ValueError(f"{directory} has no trained autoencoder; the command that trained it resumes it")
    devices = list(jax.tree.leaves(weights)[0].devices())
    if sharding is None and len(devices) > 1:  # weights that are divided over them
        sharding = parallel.leaf_sharding(devices)
    own = load_weights(directory, whitening.step, sharding)
    return {"network": weights, "autoencoder": own, "whitening": whitening.arrays()}


def extend(model: Model, autoencoder: Any) -> Model:
    """Return the model of latents, whose parameters are those of `complete`."""

    def encode(params: Any, key: jax.Array, image: jax.Array) -> jax.Array:
        return latent.make_encode(autoencoder, **params["whitening"])(params, key, image)

    def decode(params: Any, x: jax.Array) -> jax.Array:
        return latent.make_decode(autoencoder, **params["whitening"])(params, x)

    return model._replace(network=of_network(model.network), encode=encode, decode=decode)


def of_network(network: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a model's parameters that a function of its network's parameters is."""
    return lambda params, *arguments: network(params["network"], *arguments)
