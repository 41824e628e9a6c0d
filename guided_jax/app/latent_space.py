"""The autoencoder of a run: its weights beside those of the diffusion network, and with them from pictures to x and back.

The folder `autoencoder` of a run holds its checkpoints, unless it has adopted that of another run, and whitening.json: for
each channel the mean and the standard deviation of the latents of the training data, by which x has mean 0 and standard
deviation 1.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from guided_jax import parallel
from guided_jax.app import config_file, settings
from guided_jax.model import Model
from guided_jax.models import latent
from guided_jax.storage import checkpoint
from guided_jax.storage.files import replacing

FOLDER, NAME = "autoencoder", "whitening.json"
# Pictures that the decoder makes at once on each device: it may need more memory than all steps before.
DECODE_SIZE = 16


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


def home(directory: Path, experiment: settings.Experiment) -> Path:
    """Return the run that trained the autoencoder of a run, which may have adopted that of another one."""
    return experiment.autoencoder.from_run or directory


def adopt(experiment: settings.Experiment) -> settings.Experiment:
    """Return the experiment with the autoencoder of the run that `autoencoder.from_run` names, if any.

    Raises ValueError for a run without a trained autoencoder.
    """
    source, dtype = experiment.autoencoder.from_run, experiment.autoencoder.latent_dtype
    if source is None:
        return experiment
    other = config_file.experiment_of(source)
    place = home(source, other).absolute()
    step = step_of(place)
    if not other.latent or step is None:
        raise ValueError(f"--autoencoder.from {source} has no trained autoencoder; give a run that trained one")
    own: dict[str, Any] = {"from_run": place, "num_steps": step, "latent_dtype": dtype, "init_from": None}
    return dataclasses.replace(experiment, autoencoder=dataclasses.replace(other.autoencoder, **own))


def step_of(place: Path) -> int | None:
    """Return the step of the last checkpoint of the autoencoder that a run trained, None where there is none."""
    return checkpoint.latest(_checkpoints(place))


def load_weights(place: Path, step: int, sharding: Any = None) -> Any:
    """Return the averaged weights of that autoencoder at a step. sharding: as for `checkpoint.load_params`."""
    return checkpoint.load_params(_checkpoints(place), "ema", step, sharding)


def _checkpoints(place: Path) -> Path:
    return place / FOLDER / "checkpoints"


def complete(
    directory: Path | None, experiment: settings.Experiment, weights: Any, sharding: Any = None
) -> dict[str, Any]:
    """Return the parameters of a run's model: the weights of its "network", its "autoencoder" and its "whitening".

    sharding: as for `checkpoint.load_params`. Raises ValueError for a run whose latents were not computed yet.
    """
    if directory is None:
        raise ValueError("this run has no directory, and so no autoencoder")
    whitening, place = read_whitening(directory), home(directory, experiment)
    if whitening is None or not (_checkpoints(place) / str(whitening.step)).is_dir():
        raise ValueError(f"{directory} has no trained autoencoder; the command that trained it resumes it")
    if sharding is None and len(jax.tree.leaves(weights)[0].devices()) > 1:  # weights that are divided over them
        sharding = parallel.same_sharding(weights)
    own = load_weights(place, whitening.step, sharding)
    return {"network": weights, "autoencoder": own, "whitening": whitening.arrays()}


def check_same(params: Any, others: Any) -> None:
    """Raise ValueError for the parameters of two models of which one is of latents and the other not of the same ones."""
    mine, its = (one.get("whitening") if isinstance(one, dict) else None for one in (params, others))
    same = mine is its if mine is None or its is None else all(np.array_equal(mine[name], its[name]) for name in mine)
    if not same:
        raise ValueError(
            "the run of --bad works on the latents of another autoencoder; train it with --autoencoder.from RUN, on the "
            "same data"
        )


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
