"""Condition annealing: what the network is told at each level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, schedule
from guided_jax.prediction import Prediction

LEVELS = schedule.cosine(1000)
Y = {"context": 2 + 3 * jax.random.normal(jax.random.key(5), (40, 50)), "pooled": jnp.linspace(-1.0, 1.0, 200)}
X_T = jnp.zeros(())


def told(position, key=0, condition=Y, **options):
    """The condition that the network is called with at a level of the table."""
    seen = []

    def net(condition):
        seen.append(condition)
        return lambda x_t, level: Prediction(x_t, x_t)

    guidance.annealed(net, condition, jax.random.key(key), 1000, **options)(X_T, schedule.at(LEVELS, position))
    return seen[0]


def share(position, low=0.6, high=0.9):
    """gamma(t) of the paper's equation, by its three cases."""
    t = position / 1000
    return 1.0 if t <= low else 0.0 if t >= high else (high - t) / (high - low)


@pytest.mark.parametrize("position", [1, 600])
def test_late_in_a_run_it_is_the_condition_itself(position):
    jax.tree.map(np.testing.assert_array_equal, told(position, std=9.0), Y)


@pytest.mark.parametrize("position", [601, 660, 750, 900, 1000])
def test_the_noise_has_the_share_of_the_level(position):
    """Its deviation and what is left of y, without the mix; with it the mean and the deviation are those of y."""
    gamma = share(position)
    for name, y in Y.items():
        plain = told(position, std=0.5, mix=0.0)[name]
        noise = np.asarray(plain - np.sqrt(gamma) * y)
        few = 5 / np.sqrt(noise.size)
        np.testing.assert_allclose(noise.std(), 0.5 * np.sqrt(1 - gamma), rtol=few)
        np.testing.assert_allclose(noise.mean(), 0, atol=few * 0.5)
        whole = told(position, std=0.5, mix=1.0)[name]
        np.testing.assert_allclose((whole.mean(), whole.std()), (y.mean(), y.std()), rtol=1e-4, atol=1e-5)
        rescaled = (plain - plain.mean()) / plain.std() * y.std() + y.mean()
        half = told(position, std=0.5, mix=0.25)[name]
        np.testing.assert_allclose(half, 0.25 * rescaled + 0.75 * plain, rtol=1e-4, atol=1e-4)


def test_each_level_key_and_array_has_noise_of_its_own():
    same = {"a": Y["pooled"], "b": Y["pooled"]}
    first, again = told(1000, condition=same), told(1000, condition=same)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    drawn = [first["a"], first["b"], told(999, condition=same)["a"], told(1000, key=1, condition=same)["a"]]
    correlations = np.corrcoef(np.stack(drawn)) - np.eye(4)
    assert np.abs(correlations).max() < 0.3


def test_a_flat_condition_and_half_precision():
    flat = told(800, condition=jnp.full((3,), 2.0))
    np.testing.assert_allclose(flat, 2.0)  # of no deviation: nothing is left of the noise
    half = told(800, condition=jnp.ones(4, jnp.bfloat16), mix=0.0)
    assert half.dtype == jnp.bfloat16
    assert jnp.std(half.astype(jnp.float32)) > 0.01


def test_a_label_is_refused():
    with pytest.raises(ValueError, match="int32, which takes no noise; give its embedding"):
        told(800, condition={"label": jnp.int32(3)})
