"""Texts as the condition of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import models
from guided_jax.models.text import TextAttention, TextEmbedding
from tests.untrained import TINY

RNG = np.random.default_rng(0)
USED = np.arange(5) < np.array([[2], [0], [5]])  # two tokens, none, five
STATES = jnp.where(USED[..., None], RNG.standard_normal((3, 5, 6)), jnp.nan).astype(jnp.float32)
WORDS = jnp.where(USED, RNG.integers(1, 6, (3, 5)), 0)


def random_like(shapes):
    return jax.tree.map(lambda leaf: jnp.asarray((0.5 * RNG.standard_normal(leaf.shape)).astype(jnp.float32)), shapes)


def embed(net, given):
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), given))
    return params, net.apply(params, given)


def softmax_attention(params, x, text, keep, heads):
    """Return `TextAttention` of one picture by loops over heads, with what `keep` is False for left out."""
    p = jax.tree.map(np.asarray, params["params"])
    tokens = text.tokens[keep]
    groups = x.reshape(-1, 4, x.shape[-1] // 4)
    centred = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-5)
    normed = centred.reshape(-1, x.shape[-1]) * p["norm"]["scale"] + p["norm"]["bias"]
    q = normed @ p["q"]["kernel"] + p["q"]["bias"]
    k, v = np.split(np.asarray(tokens @ p["kv"]["kernel"] + p["kv"]["bias"]), 2, axis=-1)
    parts = []
    for q_h, k_h, v_h in zip(*(np.split(np.asarray(each), heads, axis=-1) for each in (q, k, v)), strict=True):
        weights = np.exp(q_h @ k_h.T / np.sqrt(q_h.shape[-1]))
        parts.append(weights / weights.sum(-1, keepdims=True) @ v_h)
    out = np.concatenate(parts, -1) @ p["proj_out"]["kernel"] + p["proj_out"]["bias"]
    return x + out.reshape(x.shape)


@pytest.mark.parametrize("given", [STATES, WORDS], ids=["states", "words"])
def test_attention_reads_the_tokens_there_are(given):
    _, text = embed(TextEmbedding(8, None if given is STATES else 5), given)
    keep = np.pad(USED, ((0, 0), (1, 0)), constant_values=True)
    np.testing.assert_allclose(text.pooled[1], text.tokens[1, 0], atol=1e-6)  # an empty text is the learned token
    np.testing.assert_allclose(text.pooled[0], np.asarray(text.tokens[0])[keep[0]].mean(0), atol=1e-5)
    net, x = TextAttention(2, num_groups=4), jnp.asarray(RNG.standard_normal((3, 2, 2, 8)), jnp.float32)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), x, text))
    found = net.apply(params, x, text)
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), text)
        np.testing.assert_allclose(found[i], softmax_attention(params, np.asarray(x[i]), one, keep[i], 2), atol=1e-4)


def test_what_fills_a_text_up_changes_nothing():
    net = TextEmbedding(8)
    params, _ = embed(net, STATES)
    longer = jnp.pad(STATES, ((0, 0), (0, 4), (0, 0)), constant_values=jnp.nan)
    np.testing.assert_allclose(net.apply(params, longer).pooled, net.apply(params, STATES).pooled, atol=1e-6)
    # NaN stands for "no token" and never reaches a gradient.
    gradient = jax.grad(lambda params: net.apply(params, STATES).tokens.sum() ** 2)(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("given", [STATES, WORDS], ids=["states", "words"])
def test_the_u_net_is_conditioned_by_each_text_alone(given):
    net = models.UNet(out_channels=1, text=True, num_words=None if given is STATES else 5, **TINY)
    x, t = jnp.asarray(RNG.standard_normal((3, 4, 4, 1)), jnp.float32), jnp.arange(3.0)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), x, t, given))
    apply = jax.jit(net.apply)
    found = apply(params, x, t, given)
    np.testing.assert_allclose(jax.vmap(apply, (None, 0, 0, 0))(params, x, t, given), found, atol=1e-4)
    other = given.at[2].set(given[1])
    changed = np.abs(apply(params, x, t, other) - found).max((1, 2, 3))
    assert changed[2] > 1e-2
    np.testing.assert_allclose(changed[:2], 0, atol=1e-5)
    for wrong, words in ((None, "was given none"), (given[..., None], "was given shape")):
        with pytest.raises(ValueError, match=f"takes a text for each example, .* and {words}"):
            jax.eval_shape(net.apply, params, x, t, wrong)
