"""The memory looks up the pictures of the nearest captions, but for that of the very same caption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import models
from guided_jax.models import memory

SHAPE = (4, 4, 3)
STATES = jax.random.normal(jax.random.key(1), (5, 3, 16))  # the captions of five pictures
COLOURS = jnp.linspace(-1.0, 1.0, 5)
PICTURES = jnp.broadcast_to(COLOURS[:, None, None, None], (5, *SHAPE))
NET = memory.Memory(7, heads=1)


@pytest.fixture(scope="module")
def kept():
    params = NET.init(jax.random.key(0), STATES, SHAPE)["params"]
    exact = {"kernel": 200.0 * jnp.eye(16)[:, None], "bias": jnp.zeros((1, 16))}
    return {"params": {**params, **memory.remember(7, STATES, PICTURES), "query": exact}}


def near(states):
    return states + 0.2 * jax.random.normal(jax.random.key(2), states.shape)


def test_the_picture_of_the_nearest_caption_is_found(kept):
    found = NET.apply(kept, near(STATES), SHAPE)
    np.testing.assert_allclose(found, PICTURES, atol=1e-4)


def test_the_own_caption_is_not_looked_at(kept):
    found = np.array(NET.apply(kept, STATES, SHAPE))[:, 0, 0, 0]
    mean = STATES.mean(1) - STATES.mean((0, 1))[None]
    unit = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(jnp.eye(5) > 0, -jnp.inf, 200.0 * unit @ unit.T), axis=-1)
    np.testing.assert_allclose(found, weights @ COLOURS, atol=1e-3)


def test_no_text_and_an_empty_memory_show_nothing(kept):
    nothing = jnp.full_like(STATES, jnp.nan)
    assert not np.any(NET.apply(kept, nothing, SHAPE))
    empty = NET.init(jax.random.key(0), STATES, SHAPE)
    assert not np.any(NET.apply(empty, STATES, SHAPE))


def test_what_is_kept_is_data_and_has_no_gradient(kept):
    def total(params):
        return NET.apply(params, near(STATES), SHAPE).sum()

    soft = {"params": {**kept["params"], "query": jax.tree.map(lambda leaf: leaf / 100, kept["params"]["query"])}}
    slopes = jax.grad(total)(soft)["params"]
    assert not np.any(slopes["keys"])
    assert not np.any(slopes["pictures"])
    assert np.any(slopes["query"]["kernel"])


def test_words_are_known_by_themselves():
    numbers = jnp.array([[1, 2, 5], [3, 4, 5], [1, 6, 0]])
    net = memory.Memory(3, heads=1, num_words=6)
    params = net.init(jax.random.key(0), numbers, SHAPE)["params"]
    places = memory.remember(3, numbers, PICTURES[:3], num_words=6)
    found = net.apply({"params": {**params, **places}}, jnp.array([[2, 1, 0], [3, 4, 0]]), SHAPE)
    np.testing.assert_allclose(found[:, 0, 0, 0], COLOURS[:2], atol=0.02)


def test_more_pictures_than_places_are_refused():
    with pytest.raises(ValueError, match="4 places cannot hold 5 pictures"):
        memory.remember(4, STATES, PICTURES)


def test_the_unet_sees_what_is_remembered():
    net = models.UNet(model_channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4, text=True, memory=7)
    x, t = jnp.zeros((5, 8, 8, 3)), jnp.ones(5)
    params = net.init(jax.random.key(0), x, t, STATES)["params"]
    params["out_2"] = jax.tree.map(lambda leaf: leaf + 0.1, params["out_2"])  # a new network returns 0
    pictures = jnp.broadcast_to(COLOURS[:, None, None, None], (5, 8, 8, 3))
    told = {**params, "memory": {**params["memory"], **memory.remember(7, STATES, pictures)}}
    before, after = (net.apply({"params": each}, x, t, near(STATES)) for each in (params, told))
    assert np.abs(before - after).max() > 1e-3
