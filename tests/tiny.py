"""The smallest network that trains: one Flax layer that predicts the noise of digits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from guided_jax import training

NETWORK = nn.Dense(64)
OPTIMIZER = training.optimizer(3e-3, 100, warmup_steps=3)


def loss(params, keys, batch):
    """Return the mean squared error of the predicted noise; one key per example."""
    x = batch["image"].reshape(len(keys), -1)
    eps = jax.vmap(lambda key: jax.random.normal(key, (64,)))(keys)
    error = jnp.mean((NETWORK.apply(params, x + eps) - eps) ** 2, axis=-1)
    return jnp.mean(error), {"worst": jnp.mean(error**2)}


def state(seed=0):
    params = NETWORK.init(jax.random.key(seed), jnp.zeros(64))
    return training.init(jax.random.key(seed + 1), params, OPTIMIZER)


train_step = functools.partial(training.train_step, loss=loss, optimizer=OPTIMIZER, ema_decay=0.99)
