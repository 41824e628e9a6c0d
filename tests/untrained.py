"""Runs and judges without training: what samples from a run, or starts from one, needs weights and not good ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from guided_jax import training
from guided_jax.app import config_file, facts
from guided_jax.app import run as runs
from guided_jax.app.train import networks
from guided_jax.metrics.judge import describe
from guided_jax.models.judge import Judge
from guided_jax.storage import checkpoint

TINY = {"model_channels": 8, "channel_mult": (1,), "num_groups": 4, "num_head_channels": 8}


def make_untrained(directory, experiment, seed=0):
    """Write a run of the experiment's data, whose weights are random numbers; return it."""
    source = experiment.data.make()
    config_file.create(directory, experiment, facts.of_source(source))
    run = runs.load(directory)
    rng = np.random.default_rng(seed)
    for part in networks.trained_parts(experiment):
        shapes = jax.eval_shape(lambda part=part: networks.init_state(run, part).params)
        params = jax.tree.map(lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)
        with checkpoint.opened(directory / part / "checkpoints") as saved:
            checkpoint.save(saved, 1, {"ema": jax.device_put(params)})
    return run


def make_judge(place, shape):
    """Write an untrained judge: its numbers serve a comparison as well as any."""
    network = Judge(10, (8, 8))
    state = training.init(jax.random.key(1), network.init(jax.random.key(0), jnp.zeros((1, *shape))), optax.sgd(0.1))
    with checkpoint.opened(place / "checkpoints") as saved:
        checkpoint.save(saved, 1, state)
    describe(place, network, shape, trained=1)
