"""The CLIP of noised pictures: unit embeddings of any batch, padding that does not count, a temperature with a limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import Classifier, NoisedCLIP
from tests.models.test_models import random_params

IMAGE = Classifier(6, 8, (1,), 1, (1,), num_head_channels=8, num_groups=4)
NET = NoisedCLIP(IMAGE, text_width=5)
X = jax.random.normal(jax.random.key(0), (4, 8, 4, 3))
T = jnp.array([0.0, 1.5, 10.0, 999.0])
STATES = jax.random.normal(jax.random.key(1), (4, 7, 10))
MASK = jnp.asarray(np.arange(7) < np.array([[7], [3], [1], [5]]))


@pytest.fixture(scope="module")
def params():
    return random_params(NET, X, T, STATES, MASK)


@jax.jit
def towers(params, x, t, states, mask):
    """Return (u, v, the logit, the temperature)."""
    u = NET.apply(params, x, t, method="encode_image")
    v = NET.apply(params, states, mask, method="encode_text")
    return u, v, NET.apply(params, x, t, states, mask), NET.apply(params, method="temperature")


def test_the_image_tower_is_the_classifier_at_length_1(params):
    u, v, logit, temperature = towers(params, X, T, STATES, MASK)
    logits = jax.jit(IMAGE.apply)({"params": params["params"]["image"]}, X, T)
    np.testing.assert_allclose(u, logits / jnp.linalg.norm(logits, axis=-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(v, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(logit, jnp.sum(u * v, -1) / temperature, rtol=1e-5)


def test_one_example_is_a_row_of_the_batch(params):
    whole = towers(params, X, T, STATES, MASK)
    alone = towers(params, X[2], T[2], STATES[2], MASK[2])
    for several, one in zip(whole[:3], alone[:3], strict=True):
        np.testing.assert_allclose(several[2], one, rtol=1e-4, atol=1e-4)
    two_axes = towers(params, *(a.reshape(2, 2, *a.shape[1:]) for a in (X, T, STATES, MASK)))
    np.testing.assert_allclose(two_axes[0].reshape(4, 6), whole[0], atol=1e-5)
    np.testing.assert_allclose(two_axes[1].reshape(4, 6), whole[1], atol=1e-5)


def test_padding_does_not_count_and_the_text_tower_is_its_formula(params):
    _, v, *_ = towers(params, X, T, STATES, MASK)
    _, other, *_ = towers(params, X, T, jnp.where(MASK[..., None], STATES, 9.0), MASK)
    np.testing.assert_allclose(other, v, atol=1e-6)
    of, states = params["params"]["text"], np.asarray(STATES[1, :3], np.float64)
    mean = states.mean(0) / np.linalg.norm(states.mean(0)) * np.sqrt(10)
    layer = {name: (np.asarray(each["kernel"]), np.asarray(each["bias"])) for name, each in of.items()}
    product = lambda x, name: x @ layer[name][0] + layer[name][1]  # noqa: E731
    hidden = np.asarray(jax.nn.gelu(product(mean, "hidden"), approximate=False))
    want = product(mean, "linear") + product(hidden, "out")
    np.testing.assert_allclose(v[1], want / np.linalg.norm(want), atol=1e-5)


def test_the_temperature_starts_at_clips_and_comes_back_from_its_limit():
    start = jax.eval_shape(NET.init, jax.random.key(0), X, T, STATES)
    assert start["params"]["logit_scale"].shape == ()
    found = NET.apply({"params": {"logit_scale": jnp.log(1 / 0.07)}}, method="temperature")
    np.testing.assert_allclose(found, 0.07, rtol=1e-5)
    of = lambda tau: 1 / NET.apply({"params": {"logit_scale": tau}}, method="temperature")  # noqa: E731
    value, slope = jax.value_and_grad(of)(jnp.log(250.0))
    np.testing.assert_allclose((value, slope), 100, rtol=1e-5)
    np.testing.assert_allclose(jax.value_and_grad(of)(jnp.log(50.0)), 50, rtol=1e-5)


def test_initial_embeddings_have_a_direction_and_the_pool_that_starts_at_0_is_refused():
    params = jax.jit(NET.init)(jax.random.key(0), X, T, STATES, MASK)
    np.testing.assert_allclose(params["params"]["logit_scale"], np.log(1 / 0.07), rtol=1e-6)
    u, v, *_ = towers(params, X, T, STATES, MASK)
    np.testing.assert_allclose(jnp.linalg.norm(u, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(v, axis=-1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="start at 0"):
        jax.eval_shape(NoisedCLIP(IMAGE.clone(pool="adaptive")).init, jax.random.key(0), X, T, STATES)
    with pytest.raises(ValueError, match="one number for each token"):
        jax.eval_shape(NET.init, jax.random.key(0), X, T, STATES, MASK[:, :3])
