"""The second head of a U-Net, the worse model of internal guidance, and the scale that a U-Net may be told."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, reverse, sampler, schedule
from guided_jax.denoiser import from_network
from guided_jax.models import UNet

NET = UNet(
    out_channels=2,
    model_channels=8,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(),
    num_head_channels=8,
    num_groups=4,
    patch=2,
    plain_convolution=True,
    num_classes=3,
    null_label=True,
    internal_head="middle_block",
    scale_input=True,
)
HEAD = "middle_block"
X, T, LABEL = (jax.random.normal(jax.random.key(1), (2, 8, 8, 2)), jnp.array([3.0, 40.0]), jnp.array([0, 2]))


@functools.cache
def fresh():
    return jax.jit(NET.init)(jax.random.key(0), X, T, LABEL, None, jnp.ones(2))


@functools.cache
def weights():
    """Return random ones, the layers that start at 0 among them."""
    params = fresh()
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return structure.unflatten(
        [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def pair_of(network):
    return guidance.two_heads(lambda network: from_network(network, "v"), network)


def test_both_heads_come_of_one_call_and_the_inner_one_of_the_exit():
    """And internal guidance of both is autoguidance by the two networks."""
    level = schedule.at(schedule.cosine(100), 41)

    def run(params):
        def net(**fields):
            return lambda x, t: NET.clone(**fields).apply(params, x, t, LABEL[1])

        outputs = [net(**fields)(X[1], T[1]) for fields in ({}, {"exit_block": HEAD}, {"both_heads": True})]
        good, bad = (from_network(net(**fields), "v") for fields in ({}, {"exit_block": HEAD}))
        guides = guidance.internal(pair_of(net(both_heads=True)), 3.0), guidance.autoguidance(good, bad, 3.0)
        return outputs, [guided(X[1], level) for guided in guides]

    (last, inner, both), (one, two) = jax.jit(run)(weights())
    np.testing.assert_allclose(both, np.concatenate([last, inner], -1), rtol=1e-5, atol=1e-5)
    assert inner.shape == last.shape
    assert jnp.abs(inner - last).max() > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, two)


def test_each_head_depends_on_its_own_layers():
    """The inner one not on the blocks after its own, and both on those before."""

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(NET.clone(exit_block=HEAD).apply(params, X, T, LABEL) ** 2)

    used = {name for name, leaf in gradient(weights())["params"].items() if any(map(np.any, jax.tree.leaves(leaf)))}
    assert set(weights()["params"]) - used == {name for name in weights()["params"] if name.startswith("out")}


def test_where_a_head_may_be_and_what_its_pixels_are():
    blocks = {
        "middle_block": 4,
        "output_blocks_0": 4,
        "output_blocks_1": 2,
        "output_blocks_2": 2,
    }  # patch 2 at 2 levels
    for name, side in blocks.items():
        net = NET.clone(internal_head=name, channel_mult=(1, 2))
        params = jax.eval_shape(net.init, jax.random.key(0), X, T, LABEL)
        assert params["params"]["internal_2"]["kernel"].shape[-1] == 2 * side**2
    for fields, words in (
        (
            {"internal_head": "output_blocks_1"},
            "internal_head has 'output_blocks_1', but the network has middle_block, ",
        ),
        ({"exit_block": "output_blocks_0"}, "exit_block has 'output_blocks_0', but only 'middle_block' has a head"),
        ({"internal_head": None, "exit_block": "middle_block"}, "but no block has a head"),
    ):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(NET.clone(**fields).init, jax.random.key(0), X, T, LABEL)


def test_internal_guidance_in_a_sampling_loop_is_one_call_and_one_head():
    """Of two calls XLA merges a part only, in a loop: those have 1.4 times as many products."""
    levels = schedule.respace(schedule.cosine(100), 3)

    def draw(params, key, label, guided):
        def net(x, t):
            return NET.clone(both_heads=guided).apply(params, x, t, label)

        denoise = from_network(net, "v") if not guided else guidance.internal(pair_of(net), 2.0)
        return sampler.sample(key, denoise, reverse.ddim(), jax.random.normal(key, (8, 8, 2)), levels)

    counts = []
    for guided in (False, True):
        batch = jax.jit(jax.vmap(functools.partial(draw, guided=guided), (None, 0, 0)))
        text = batch.lower(weights(), jax.random.split(jax.random.key(0), 2), LABEL).compile().as_text()
        counts.append(len(re.findall(r" (?:convolution|dot)\(|custom-call\(", text)))
    assert counts[0] < counts[1] < 1.1 * counts[0]


def test_a_network_is_told_the_scale():
    """One for all or one for each; 1 without one, and a network that was not told any starts as it was."""

    def run(params):
        return [NET.apply(params, X, T, LABEL, None, scale) for scale in (None, 1.0, 3.0, jnp.array([1.0, 3.0]))]

    none, one, three, each = jax.jit(run)(weights())
    np.testing.assert_allclose(none, one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(each, np.stack([one[0], three[1]]), rtol=1e-4, atol=1e-5)
    assert jnp.abs(three - one).max() > 1e-3
    assert not any(map(np.any, jax.tree.leaves(fresh()["params"]["scale_embed_2"])))
    with pytest.raises(ValueError, match="takes no guidance scale"):
        jax.eval_shape(NET.clone(scale_input=False).apply, weights(), X, T, LABEL, None, 2.0)
