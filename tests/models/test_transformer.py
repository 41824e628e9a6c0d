"""The transformer: its initial values, sizes and labels, and the parts that guidance replaces, leaves out or reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, schedule
from guided_jax.models import DiT, attention_blocks, attention_mass, blocks, blurred_queries, identity_attention
from guided_jax.models.perturbation import middle_block
from guided_jax.models.transformer import position_table

NET = DiT(
    input_size=6, in_channels=3, out_channels=6, hidden_size=16, depth=3, num_heads=2, num_classes=5, internal_head=1
)
X = jax.random.normal(jax.random.key(7), (2, 6, 6, 3))
T, LABEL = jnp.array([3.0, 700.5]), jnp.array([2, 5])


@pytest.fixture(scope="module")
def params():
    """No zeros left: at its initial values the network ignores all of itself."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray((0.3 * rng.standard_normal(a.shape)).astype(a.dtype)), shapes(NET))


@pytest.fixture(scope="module")
def plain(params):
    return call(NET, params)


def shapes(net):
    return jax.eval_shape(lambda key: net.init(key, X, T, LABEL), jax.random.key(0))


def call(net, params, x=X, t=T, label=LABEL):
    return jax.jit(net.apply)(params, x, t, label)


def close(a, b, rtol=2e-5):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= rtol * np.sqrt(np.mean(b**2))


def renamed(params, names):
    """Return the parameters with the modules renamed, those of other names left out."""
    found = params["params"]
    kept = {name: found[name] for name in found if "blocks" not in name and "layer" not in name}
    return {"params": kept | {new: found[old] for new, old in names.items()}}


# --- the network -----------------------------------------------------------------------------------------------------


def test_a_new_network_returns_0_and_starts_as_the_original_does():
    params = jax.jit(NET.init)(jax.random.key(0), X, T, LABEL)
    np.testing.assert_array_equal(call(NET, params), 0)
    found = params["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert path[-1].key != "bias" or not np.any(leaf)
    block = found["blocks_1"]
    for name in ("qkv", "proj", "fc1", "fc2"):
        kernel = np.asarray(block[name]["kernel"])
        limit = (6 / sum(kernel.shape)) ** 0.5  # Xavier's uniform
        assert 0.9 * limit < np.abs(kernel).max() <= limit
        assert abs(kernel.std() / (limit / 3**0.5) - 1) < 0.1
    for kernel in (found["t_embedder_0"]["kernel"], found["y_embedder"]["embedding"]):
        assert abs(np.std(kernel) / 0.02 - 1) < 0.25
    zero = [block["modulation"], *jax.tree.leaves([found["final_layer"], found["internal_layer"]])]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_the_null_label_is_the_last_row(params, plain):
    close(call(NET, params, label=None)[1], plain[1])
    assert jnp.abs(call(NET, params, label=None)[0] - plain[0]).max() > 1e-3


def test_labels_that_do_not_fit_are_refused(params):
    for label, message in ((6, "out of range"), (-1, "out of range"), (jnp.array([1, 2, 3]), "label of shape")):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(NET.apply, params, X, T, label))
    with pytest.raises(ValueError, match="takes no label"):
        jax.eval_shape(functools.partial(NET.clone(num_classes=None).apply, params, X, T, 1))
    with pytest.raises(ValueError, match="null_label=True"):
        jax.eval_shape(functools.partial(NET.clone(null_label=False).apply, params, X, T))
    unconditional = shapes_without_label(NET.clone(num_classes=None))
    assert "y_embedder" not in unconditional["params"]


def shapes_without_label(net):
    return jax.eval_shape(lambda key: net.init(key, X, T), jax.random.key(0))


def test_sizes_that_do_not_fit_are_refused(params):
    for x in (jnp.zeros((8, 8, 3)), jnp.zeros((6, 4, 3)), jnp.zeros((6, 6, 4))):
        with pytest.raises(ValueError, match="takes 6x6 with 3 channels and was given"):
            jax.eval_shape(functools.partial(NET.apply, params, x, 1.0))
    for change in ({"num_heads": 3}, {"hidden_size": 18, "num_heads": 2}):
        with pytest.raises(ValueError, match="cannot be split"):
            shapes(NET.clone(**change))
    with pytest.raises(ValueError, match="cannot be cut"):
        shapes(NET.clone(patch_size=4))


def test_positions_are_stretched_over_other_sizes(params, plain):
    """Twice as many patches lie at half the distance; at its own size the network is what it was."""
    np.testing.assert_allclose(position_table(4, 6, 2, 8)[::2, ::3], position_table(2, 2, 2, 8), atol=1e-6)
    stretched = NET.clone(stretch_positions=True)
    close(call(stretched, params), plain)
    assert jax.eval_shape(stretched.apply, params, jnp.zeros((4, 8, 3)), 1.0).shape == (4, 8, 6)


def test_options_of_computation_change_no_number(params, plain):
    def value(net):
        return lambda x: jnp.sum(jnp.sin(net.apply(params, x, T, LABEL)))

    gradient = jax.jit(jax.grad(value(NET)))(X)
    for options in ({"remat": True}, {"remat": True, "remat_keep": "products"}, {"attention_kernel": "xla"}):
        close(jax.jit(jax.grad(value(NET.clone(**options))))(X), gradient, 1e-4)
    close(call(NET.clone(drop_variance=True), params), plain[..., :3])


# --- what guidance replaces, leaves out and reads --------------------------------------------------------------------


def test_the_parameters_are_those_of_the_network():
    want = jax.tree.structure(shapes(NET))
    for change in ({"skip_blocks": (0, 1, 2)}, {"exit_block": 0}, {"exit_block": 1}, {"perturb": identity_attention}):
        assert jax.tree.structure(shapes(NET.clone(**change))) == want


def test_blocks_that_are_skipped_are_those_of_a_smaller_network(params):
    """Without all of them: the head reads the embedding."""
    smaller = renamed(params, {"blocks_0": "blocks_0", "blocks_1": "blocks_2", "final_layer": "final_layer"})
    want = call(NET.clone(depth=2, internal_head=None), smaller)
    close(call(NET.clone(skip_blocks=("blocks_1",)), params), want)
    close(call(NET.clone(skip_blocks=(1,)), params), want)
    none = NET.clone(depth=0, internal_head=None)
    close(call(NET.clone(skip_blocks=range(3)), params), call(none, params))


def test_the_head_reads_the_embedding_where_all_blocks_are_skipped(params):
    """In numpy, from the formulas."""
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    linear = lambda x, layer: x @ layer["kernel"] + layer["bias"]  # noqa: E731
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    angles = np.asarray(T)[:, None] * 10_000.0 ** (-np.arange(128) / 128)
    hidden = silu(linear(np.concatenate([np.cos(angles), np.sin(angles)], -1), found["t_embedder_0"]))
    c = silu(linear(hidden, found["t_embedder_2"]) + found["y_embedder"]["embedding"][np.asarray(LABEL)])
    patches = np.asarray(X).reshape(2, 3, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 3, 3, 12)
    h = linear(patches, found["x_embedder"])
    for row in range(3):
        for column in range(3):
            waves = [np.outer([column, row], 10_000.0 ** (-np.arange(4) / 4))[i] for i in (0, 1)]
            h[:, row, column] += np.concatenate([np.concatenate([np.sin(w), np.cos(w)]) for w in waves])
    shift, scale = np.split(linear(c, found["final_layer"]["modulation"])[:, None, None], 2, -1)
    norm = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    output = linear(norm * (1 + scale) + shift, found["final_layer"]["linear"])
    output = output.reshape(2, 3, 3, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 6, 6)
    close(call(NET.clone(skip_blocks=(0, 1, 2)), params), output, 1e-4)


def test_the_output_is_read_after_a_block(params, plain):
    """By the last layer, or by the head of its own where there is one; after the last block it is the whole network."""
    first = renamed(params, {"blocks_0": "blocks_0", "final_layer": "final_layer"})
    close(call(NET.clone(exit_block=0), params), call(NET.clone(depth=1, internal_head=None), first))
    own = renamed(params, {"blocks_0": "blocks_0", "blocks_1": "blocks_1", "final_layer": "internal_layer"})
    close(call(NET.clone(exit_block="blocks_1"), params), call(NET.clone(depth=2, internal_head=None), own))
    np.testing.assert_array_equal(call(NET.clone(exit_block=2), params), plain)


def test_the_internal_output_costs_no_second_call(params):
    """XLA computes the blocks that both outputs share once."""

    def products(both):
        def run(params, x):
            outputs = [net.apply(params, x, T, LABEL) for net in both]
            return outputs[-1] + 2 * (outputs[0] - outputs[-1])

        return jax.jit(run).lower(params, X).compile().as_text().count(" dot(")

    alone = products([NET])
    assert products([NET, NET.clone(exit_block=1)]) - alone <= 2  # those of its head
    assert products([NET, NET.clone(skip_blocks=(0,))]) - alone >= 10  # two blocks, each of five and attention's


def test_a_block_that_is_not_there_is_named(params):
    for change in ({"skip_blocks": (3,)}, {"skip_blocks": ("middle_block",)}, {"exit_block": -1}):
        with pytest.raises(ValueError, match=r"has .*, but the network has blocks_0, blocks_1, blocks_2"):
            jax.eval_shape(functools.partial(NET.clone(**change).apply, params, X, T))
    for wrong in ((3,), ("middle_block",), ()):
        with pytest.raises(ValueError, match="perturb_blocks takes blocks_0, blocks_1, blocks_2"):
            jax.eval_shape(
                functools.partial(NET.clone(perturb=identity_attention, perturb_blocks=wrong).apply, params, X, T)
            )


def test_with_identity_attention_everywhere_no_patch_sees_another(params):
    bad = NET.clone(perturb=identity_attention, perturb_blocks=attention_blocks(NET))
    moved = X.at[:, 2:4, 4:6].add(1.0)
    changed = np.abs(np.asarray(call(bad, params, moved) - call(bad, params))).max((0, 3)) > 1e-6
    assert changed[2:4, 4:6].all()
    assert changed.sum() == 4
    assert (np.abs(call(NET, params, moved) - call(NET, params)).max((0, 3)) > 1e-6).all()


def test_the_named_blocks_are_perturbed_the_middle_one_by_default(params, plain):
    outputs = [
        call(NET.clone(perturb=identity_attention, perturb_blocks=b), params) for b in (None, (1,), ("blocks_0",))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert jnp.abs(outputs[1] - outputs[2]).max() > 1e-3
    close(call(NET.clone(perturb=blurred_queries(0.0)), params), plain, 1e-4)


def test_attention_mass_is_the_attention_to_each_patch(params):
    """That of the first block, from the block's own matrices; its mean is 1."""
    assert middle_block(NET) == "blocks_1"
    masses = [jax.jit(lambda x, b=b: attention_mass(NET, params, x, T, LABEL, b))(X) for b in (None, "blocks_1", 0)]
    np.testing.assert_array_equal(masses[0], masses[1])
    for mass in masses:
        assert mass.shape == X.shape[:-1]
        np.testing.assert_allclose(mass.mean((1, 2)), 1, rtol=1e-5)
        np.testing.assert_array_equal(mass[:, ::2, ::2], mass[:, 1::2, 1::2])
        assert mass.std() > 1e-3
    captured = jax.jit(lambda x: NET.apply(params, x, T, LABEL, capture_intermediates=True, mutable=["intermediates"]))(
        X
    )
    (qkv,) = captured[1]["intermediates"]["blocks_0"]["qkv"]["__call__"]
    q, k, _ = np.asarray(qkv, np.float64).reshape(2, 9, 3, 2, 8).transpose(2, 0, 3, 1, 4)
    weights = np.exp(q @ k.swapaxes(-1, -2) / 8**0.5)
    weights /= weights.sum(-1, keepdims=True)
    want = weights.mean(1).sum(1).reshape(2, 3, 3)
    np.testing.assert_allclose(masses[2][:, ::2, ::2], want, rtol=1e-3)
    single = attention_mass(NET, params, X[0], T[0], LABEL[0])
    np.testing.assert_allclose(single, masses[0][0], rtol=1e-4)
    with pytest.raises(ValueError, match="there is blocks_0"):
        attention_mass(NET, params, X, T, LABEL, 3)


def test_the_network_guides_itself(params):
    """Perturbed, skipping, left early and blurred by its own attention: at scale 1 the network, at others not."""
    level = schedule.at(schedule.cosine(1000), 500)

    def of(net):
        return denoiser.from_network(lambda x, t: net.apply(params, x, t)[..., :3])

    def mask(x, level):
        return attention_mass(NET, params, x, level.t - 1) > 1

    @jax.jit
    def run(scale):
        bad = ({"perturb": identity_attention}, {"skip_blocks": (1,)}, {"exit_block": 1})
        guided = [guidance.autoguidance(of(NET), of(NET.clone(**each)), scale) for each in bad]
        guided.append(guidance.self_attention(of(NET), scale, 1.0, mask))
        return [one(X[0], level).x_0 for one in (of(NET), *guided)]

    for scale, same in ((1.0, True), (3.0, False)):
        own, *guided = run(scale)
        for one in guided:
            assert jnp.all(jnp.isfinite(one))
            assert bool(jnp.abs(one - own).max() < 1e-4 * jnp.abs(own).max()) == same


def test_the_frequencies_of_diffusers_end_at_the_smallest(params):
    """With a shift of 1 the last frequency is 1 / 10000 itself."""
    t = jnp.float32(10_000)
    angles = [jnp.arctan2(e[255], e[127]) for e in (blocks.timestep_embedding(t, 256, shift=shift) for shift in (1, 0))]
    np.testing.assert_allclose(angles[0], 1.0, rtol=1e-4)
    np.testing.assert_allclose(angles[1], 10_000 ** (1 / 128), rtol=1e-4)
    assert jnp.abs(call(NET.clone(frequency_shift=1), params) - call(NET, params)).max() > 1e-3
