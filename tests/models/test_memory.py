"""The memory looks up the pictures of the nearest captions, but for that of the very same caption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import models
from guided_jax.models import memory
from tests.models.test_models import random_params

SHAPE = (4, 4, 3)
STATES = jax.random.normal(jax.random.key(1), (5, 3, 16))  # the captions of five pictures
COLOURS = jnp.linspace(-1.0, 1.0, 5)
PICTURES = jnp.broadcast_to(COLOURS[:, None, None, None], (5, *SHAPE))
NET = memory.Memory(7, heads=1)
INIT = jax.jit(NET.init, static_argnums=2)
APPLY = jax.jit(NET.apply, static_argnums=2)


@pytest.fixture(scope="module")
def kept():
    params = INIT(jax.random.key(0), STATES, SHAPE)["params"]
    exact = {"kernel": 200.0 * jnp.eye(16)[:, None], "bias": jnp.zeros((1, 16))}
    return {"params": {**params, **memory.remember(7, STATES, PICTURES), "query": exact}}


def near(states):
    return states + 0.2 * jax.random.normal(jax.random.key(2), states.shape)


def test_the_picture_of_the_nearest_caption_is_found(kept):
    found = APPLY(kept, near(STATES), SHAPE)
    np.testing.assert_allclose(found, PICTURES, atol=1e-4)


def test_the_own_caption_is_not_looked_at(kept):
    found = np.array(APPLY(kept, STATES, SHAPE))[:, 0, 0, 0]
    states = np.asarray(STATES, np.float64)
    mean = states.mean(1) - states.mean((0, 1))[None]
    unit = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    weights = np.where(np.eye(5) > 0, 0, np.exp(200.0 * (unit @ unit.T - 1)))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, weights @ COLOURS, atol=1e-3)


def test_no_text_and_an_empty_memory_show_nothing(kept):
    nothing = jnp.full_like(STATES, jnp.nan)
    assert not np.any(APPLY(kept, nothing, SHAPE))
    empty = INIT(jax.random.key(0), STATES, SHAPE)
    assert not np.any(APPLY(empty, STATES, SHAPE))


def test_what_is_kept_is_data_and_has_no_gradient(kept):
    def total(params):
        return NET.apply(params, near(STATES), SHAPE).sum()

    soft = {"params": {**kept["params"], "query": jax.tree.map(lambda leaf: leaf / 100, kept["params"]["query"])}}
    slopes = jax.jit(jax.grad(total))(soft)["params"]
    assert not np.any(slopes["keys"])
    assert not np.any(slopes["pictures"])
    assert np.any(slopes["query"]["kernel"])


def test_words_are_known_by_themselves():
    numbers = jnp.array([[1, 2, 5], [3, 4, 5], [1, 6, 0]])
    net = memory.Memory(3, heads=1, num_words=6)
    params = jax.jit(net.init, static_argnums=2)(jax.random.key(0), numbers, SHAPE)["params"]
    places = memory.remember(3, numbers, PICTURES[:3], num_words=6)
    given = {"params": {**params, **places}}, jnp.array([[2, 1, 0], [3, 4, 0]])
    found = jax.jit(lambda params, numbers: net.apply(params, numbers, SHAPE))(*given)
    np.testing.assert_allclose(found[:, 0, 0, 0], COLOURS[:2], atol=0.02)


def test_more_pictures_than_places_are_refused():
    with pytest.raises(ValueError, match="4 places cannot hold 5 pictures"):
        memory.remember(4, STATES, PICTURES)


def test_the_unet_sees_what_is_remembered():
    net = models.UNet(model_channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4, text=True, memory=7)
    x, t = jnp.zeros((5, 8, 8, 3)), jnp.ones(5)
    params = random_params(net, x, t, STATES)["params"]
    kept = memory.remember(7, STATES, jnp.broadcast_to(COLOURS[:, None, None, None], (5, 8, 8, 3)))
    apply = jax.jit(
        lambda kept: net.apply({"params": {**params, "memory": params["memory"] | kept}}, x, t, near(STATES))
    )
    before, after = apply(jax.tree.map(jnp.zeros_like, kept)), apply(kept)
    assert np.abs(before - after).max() > 1e-3
