"""Weights rounded before a loop are those that the network rounds in it; transformed ones are in test_winograd."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import Classifier, UNet, prepare_params

SMALL = {"model_channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "num_head_channels": 8, "num_groups": 4}
X, T = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([3.0, 500.0])
NETWORKS = {
    "unet": (
        UNet(1, num_classes=3, attention_resolutions=(2,), resblock_updown=True, **SMALL),
        (X, T, jnp.array([0, 2])),
    ),
    "classifier": (Classifier(num_classes=3, attention_resolutions=(2,), **SMALL), (X, T)),
}


def weights(network, *example):
    shapes = jax.eval_shape(network.init, jax.random.key(0), *example)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray((0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)), shapes)


def conversions_of_weights(network, params, *example):
    """How many of its weights a call converts to another type."""
    leaves, tree = jax.tree.flatten(params)
    closed = jax.make_jaxpr(lambda *leaves: network.apply(jax.tree.unflatten(tree, leaves), *example))(*leaves)
    given = set(closed.jaxpr.invars)
    made = [each for each in closed.jaxpr.eqns if each.primitive.name == "convert_element_type"]
    return sum(any(isinstance(v, type(closed.jaxpr.invars[0])) and v in given for v in each.invars) for each in made)


@pytest.mark.parametrize("name", [pytest.param("unet", marks=pytest.mark.slow), "classifier"])
def test_rounded_weights_give_the_same_bits(name):
    network, example = NETWORKS[name]
    half, params = network.clone(dtype="bfloat16"), weights(network, *example)
    want = jax.jit(half.apply)(params, *example)  # before it is asked what is rounded: a trace that JAX remembers
    once = prepare_params(half, params, *example)
    assert jnp.array_equal(jax.jit(half.apply)(once, *example), want)
    gradient = jax.jit(jax.grad(lambda x, params: half.apply(params, x, *example[1:]).sum()))
    assert jnp.array_equal(gradient(X, once), gradient(X, params))
    assert conversions_of_weights(half, params, *example) > 20
    assert conversions_of_weights(half, once, *example) == 0


def test_only_weights_that_the_layers_round_are_rounded():
    network, example = NETWORKS["unet"]
    params = weights(network, *example)
    once = prepare_params(network.clone(dtype="bfloat16"), params, *example)["params"]
    assert once["input_blocks_1_0"]["in_layers_2"]["kernel"].dtype == jnp.bfloat16
    assert once["input_blocks_1_0"]["in_layers_2"]["bias"].dtype == jnp.bfloat16
    for kept in (once["time_embed_0"]["kernel"], once["label_emb"]["embedding"], once["out_2"]["kernel"]):
        assert kept.dtype == jnp.float32
    assert once["input_blocks_1_0"]["in_layers_0"]["scale"].dtype == jnp.float32
    whole = prepare_params(network, params, *example)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, whole, params))
