"""The U-Net of Stable Diffusion: any batch axes and sizes, its hooks, and conditions that do not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import UNet2DConditionModel, attention_blocks, attention_mass, identity_attention

NET = UNet2DConditionModel(
    block_out_channels=(8, 16),
    attention_levels=(False, True),
    layers_per_block=1,
    num_heads=(1, 2),
    transformer_layers=(1, 2),
    num_groups=4,
    cross_attention_dim=6,
    added_features=12,
    size_features=4,
)
ONE_LEVEL = UNet2DConditionModel(
    block_out_channels=(8,),
    attention_levels=(True,),
    layers_per_block=1,
    num_heads=2,
    num_groups=4,
    cross_attention_dim=6,
)
X = jax.random.normal(jax.random.key(7), (4, 5, 6, 4))
CONDITIONS = {
    "t": jnp.arange(4.0) * 100,
    "context": jax.random.normal(jax.random.key(8), (4, 3, 6)),
    "pooled": jax.random.normal(jax.random.key(9), (4, 4)),
    "time_ids": jnp.arange(8.0).reshape(4, 2),
}


def redrawn(net, *inputs, **conditions):
    """Return parameters none of which is 0."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs, **conditions)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray((0.3 * rng.standard_normal(a.shape)).astype(a.dtype)), shapes)


@pytest.fixture(scope="module")
def params():
    return redrawn(NET, X, **CONDITIONS)


@pytest.fixture(scope="module")
def params_of_one_level():
    return redrawn(ONE_LEVEL, X, 3.0, CONDITIONS["context"])


@pytest.fixture(scope="module")
def output(params):
    return jax.jit(NET.apply)(params, X, **CONDITIONS)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_fresh_network_returns_0(params_of_one_level):
    """Whatever the layers before its last one are: of those with a few weights the initial ones are drawn."""
    x, context = X[0], CONDITIONS["context"][0]

    @jax.jit
    def initial(key):
        params = ONE_LEVEL.init(key, x, 3.0, context)["params"]
        return params["out_2"], params["output_blocks_0_1"]["transformer_blocks_0"]["attn1"]["to_out_0"]

    last, inside = initial(jax.random.key(0))
    params = {"params": params_of_one_level["params"] | {"out_2": last}}
    assert not jax.jit(ONE_LEVEL.apply)(params, x, 3.0, context).any()
    assert inside["kernel"].any()


@pytest.mark.slow
def test_any_batch_axes(params, output):
    """One example, and two axes, are what the batch is."""
    twice = {name: value.reshape(2, 2, *value.shape[1:]) for name, value in CONDITIONS.items()}
    close(jax.jit(NET.apply)(params, X.reshape(2, 2, *X.shape[1:]), **twice).reshape(X.shape), output)
    first = {name: value[0] for name, value in CONDITIONS.items()}
    close(jax.jit(NET.apply)(params, X[0], **first), output[0])


def test_a_mask_leaves_tokens_out(params_of_one_level):
    """Masked tokens have no influence; conditions may be those of all."""
    apply, context = jax.jit(ONE_LEVEL.apply), CONDITIONS["context"]
    masked = apply(params_of_one_level, X, CONDITIONS["t"], context, mask=jnp.array([1, 1, 0]))
    close(masked, apply(params_of_one_level, X, CONDITIONS["t"], context[:, :2]))


@pytest.mark.slow  # in the fast suite of other networks: test_precision.py and test_transformer.py
def test_gradients_do_not_depend_on_what_is_kept(params_of_one_level):
    params = params_of_one_level

    def gradient(net):
        loss = lambda x: jnp.square(net.apply(params, x, 3.0, CONDITIONS["context"])).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(X)

    plain = gradient(ONE_LEVEL)
    close(gradient(ONE_LEVEL.clone(remat=True)) / plain.std(), plain / plain.std())


def test_forward_mode_by_the_plain_convolution(params):
    net = NET.clone(plain_convolution=True)
    _, tangent = jax.eval_shape(lambda x: jax.jvp(lambda x: net.apply(params, x, **CONDITIONS), (x,), (x,)), X)
    assert tangent.shape == X.shape


# --- perturbed attention ---------------------------------------------------------------------------------------------


def test_the_names_of_the_blocks_with_attention(params):
    for net in (NET, NET.clone(attention_levels=(True, True), layers_per_block=2, only_cross_attention=(True, False))):
        made = jax.eval_shape(net.init, jax.random.key(0), X, **CONDITIONS)["params"]
        layers = {
            name: block["transformer_blocks_0"] for name, block in made.items() if "transformer_blocks_0" in block
        }
        attending = {
            name.rpartition("_")[0]
            for name, layer in layers.items()
            if layer["attn1"]["to_k"]["kernel"].shape[0] == layer["attn1"]["to_q"]["kernel"].shape[0]
        }
        assert set(attention_blocks(net)) == attending
        assert len(attention_blocks(net)) == len(attending)
    for wrong in (("output_blocks_7",), ("input_blocks_1",), ()):
        with pytest.raises(ValueError, match="middle_block"):
            jax.eval_shape(
                functools.partial(
                    NET.clone(perturb=identity_attention, perturb_blocks=wrong).apply, params, X, **CONDITIONS
                )
            )


@pytest.mark.parametrize("blocks", [pytest.param(None, marks=pytest.mark.slow), ("input_blocks_3", "output_blocks_1")])
def test_only_the_attention_within_the_picture_is_perturbed(params, output, blocks):
    net = NET.clone(perturb_blocks=blocks)
    seen = []

    def perturb(q, k, v, size):
        seen.append((size, q.shape == k.shape))
        return v

    assert jnp.abs(jax.jit(net.clone(perturb=perturb).apply)(params, X, **CONDITIONS) - output).max() > 1e-3
    assert seen == [((3, 3), True)] * 2 * len(blocks or [None])


@pytest.mark.slow  # in the fast suite of another network: test_precision.py
def test_the_fused_kernel_is_the_same(params, output):
    close(jax.jit(NET.clone(attention_kernel="xla").apply)(params, X, **CONDITIONS), output)


def test_attention_mass_of_the_middle_block(params):
    x, t, context = X[:, :4], CONDITIONS["t"], CONDITIONS["context"]
    others = {name: CONDITIONS[name] for name in ("pooled", "time_ids")}
    mass = jax.jit(lambda x: attention_mass(NET, params, x, t, context, **others))(x)
    assert mass.shape == (4, 4, 6)
    np.testing.assert_allclose(mass.mean((-2, -1)), np.ones(4), rtol=1e-5)
    np.testing.assert_array_equal(mass[:, ::2, ::2], mass[:, 1::2, 1::2])
    assert mass.std() > 1e-3


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": jnp.zeros((4, 5, 6, 9))}, "takes 4 channels and was given 9"),
        ({"context": jnp.zeros((4, 3, 8))}, r"texts of width 6 and was given \(4, 3, 8\)"),
        ({"context": jnp.zeros((3, 3, 6))}, r"context has shape \(3, 3, 6\)"),
        ({"context": jnp.zeros(6)}, r"context has shape \(6,\); it has 2 axes"),
        ({"pooled": None}, "give both"),
        ({"time_ids": jnp.zeros(6)}, "a pooled text of 4 numbers and 6 sizes of 4 make 28, and the network takes 12"),
        ({"label": 3}, "takes no label"),
        ({"mask": jnp.ones((2, 3))}, "mask has shape"),
        ({"t": jnp.zeros(3)}, "t of shape"),
    ],
)
def test_conditions_that_do_not_fit(params, change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(NET.apply, params, **{"x": X, **CONDITIONS, **change})


@pytest.mark.parametrize(
    ("fields", "label", "message"),
    [
        ({"class_embedding": "table", "num_classes": 3}, 3, "label 3 is out of range"),
        ({"class_embedding": "table", "num_classes": 3}, None, "needs a label"),
        ({"class_embedding": "projection", "class_features": 5}, jnp.zeros((4, 4)), "it has 5 numbers"),
        ({"class_embedding": "words"}, 3, "it is table, timestep, projection or None"),
        ({"num_heads": 3}, None, "8 channels cannot be split into 3 attention heads"),
        ({}, None, "takes no pooled"),
    ],
)
def test_networks_and_labels_that_do_not_fit(fields, label, message):
    net = NET.clone(attention_levels=(True, True), added_features=None if not fields else 12, **fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: net.init(jax.random.key(0), X, **CONDITIONS, label=label))
