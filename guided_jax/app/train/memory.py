"""The pictures that a network of captions keeps of its training data."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guided_jax.app import run as runs
from guided_jax.models import memory
from guided_jax.storage import images


def size(run: runs.Run, part: str) -> int:
    """Return how many pictures a network of the run can keep."""
    return int(getattr(run.networks.diffusion, "memory", 0)) if part == "diffusion" else 0


def weights(run: runs.Run) -> dict[str, Any]:
    """Return the first pictures of the run's training data and their captions, as the weights that keep them, by name."""
    network, source = run.networks.diffusion, run.experiment.data.whole.make()
    batch = source.read(np.arange(min(len(source), network.memory)))
    captions, pictures = jnp.asarray(batch["label"]), jnp.asarray(images.from_uint8(batch["image"]))
    kept = memory.remember(network.memory, captions, pictures, network.num_words)
    return {f"params/memory/{name}": np.asarray(each) for name, each in kept.items()}
