"""The references' own numbers of DiT and SiT: weights of every layout imported, outputs and gradients met."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models.transformer import position_table
from guided_jax.pretrained import dit
from tests.latent_golden import cases, error, nhwc, published, read

FILES = ("dit_eps_probe", "dit_fixed_sigma_patch4", "dit_learned_sigma")
GUIDED = 3  # channels that the original guides


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def output_and_vjp(module, gradients=True):
    """Return the compiled (params, x, t, label, w) -> (output, gradient of its product with w), the batch as it comes.

    Without gradients the second is None.
    """

    @jax.jit
    def run(params, x, t, label, w):
        if not gradients:
            return module.apply(params, x, t, label), None
        output, pull = jax.vjp(lambda x: module.apply(params, x, t, label), x)
        return output, pull(w)[0]

    return run


def inputs(arrays):
    return nhwc(arrays["x"]), jnp.asarray(arrays["t"]), jnp.asarray(arrays["y"], int), nhwc(arrays["vjp_w"])


def guided(conditional, unconditional, scale):
    """[both halves] of the original's guidance: on the first channels alone, each half keeps its others."""
    first = unconditional + scale * (conditional - unconditional)
    keep = jnp.arange(conditional.shape[-1]) >= GUIDED
    return jnp.concatenate([jnp.where(keep, half, first) for half in (conditional, unconditional)])


# --- the numbers of the references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("like", ["original", "diffusers"])
@pytest.mark.parametrize(("name", "gradients"), cases(FILES, ["dit_eps_probe"]))
def test_dit(name, gradients, like):
    """Both configurations describe one network and both layouts hold the same weights, so that one call is enough."""
    meta, arrays, groups = read(name)
    module, params = dit.load(meta["config"], groups["sd"], like)
    other, same = dit.load(meta["original_config"], groups["sd_original"], like)
    assert module == other
    jax.tree.map(np.testing.assert_array_equal, params, same)
    x, t, label, w = inputs(arrays)
    run = output_and_vjp(module, gradients)
    output, gradient = run(params, x, t, label, w)
    assert error(output, arrays[f"out_{like}"]) < 2e-4
    assert not gradients or error(gradient, arrays[f"vjp_x_{like}"]) < 5e-4
    if like == "original":
        null = jnp.full_like(label, module.num_classes)
        unconditional, _ = run(params, x, t, null, w)
        assert error(guided(output, unconditional, meta["cfg_scale"]), arrays["out_original_cfg"]) < 2e-4


def test_sit():
    meta, arrays, groups = read("sit_learned_sigma")
    config = meta["config"]
    module, params = dit.load(config, groups["sd"])
    assert module.out_channels == 2 * config["in_channels"]
    assert not module.drop_variance
    module, params = dit.load(config | {"_class_name": "SiT"}, groups["sd"])
    x, t, label, w = inputs(arrays)
    run = output_and_vjp(module)
    velocity, gradient = run(params, x, t, label, w)
    assert error(velocity, arrays["out"]) < 2e-4
    assert error(gradient, arrays["vjp_x"]) < 5e-4
    unconditional, _ = run(params, x, t, jnp.full_like(label, config["num_classes"]), w)
    assert error(guided(velocity, unconditional, meta["cfg_scale"]), arrays["out_cfg"]) < 2e-4
    steps = len(arrays["ode/samples"])
    for i, sample in enumerate(arrays["ode/samples"]):  # data at t = 1
        x = x + run(params, x, jnp.full_like(t, i / steps), label, w)[0] / steps
        assert error(x, sample) < 2e-4


def test_any_batch_axes():
    """One example, and two axes, are what the batch is; t and label may be scalars."""
    meta, arrays, groups = read("dit_learned_sigma")
    module, params = dit.load(meta["config"], groups["sd"])
    x, t, label, _ = inputs(arrays)
    apply = jax.jit(module.apply)
    output = apply(params, x.reshape(2, 2, *x.shape[1:]), t.reshape(2, 2), label.reshape(2, 2))
    assert error(output.reshape(4, *output.shape[2:]), arrays["out_original"]) < 2e-4
    output = apply(params, x[1], t[1], label[1])
    assert error(output[None], arrays["out_original"][1:2]) < 2e-4
    both = apply(params, x[1:3], t[1], label[1])
    np.testing.assert_allclose(both[0], output, rtol=1e-4, atol=1e-4)


def test_the_network_of_half_precision():
    meta, arrays, groups = read("dit_learned_sigma")
    module, params = dit.load(meta["config"], groups["sd"], dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    x, t, label, _ = inputs(arrays)
    output = jax.jit(module.apply)(params, x, t, label)
    assert output.dtype == jnp.float32
    assert 1e-3 < error(output, arrays["out_original"]) < 5e-2


# --- the published sizes ---------------------------------------------------------------------------------------------


def torch_shapes(module, key_of):
    """Return {key: shape} of the tensors that a file in a layout has for this network."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(dit.shapes(module)["params"])
    found = {}
    for path, leaf in leaves:
        path, shape = [each.key for each in path], leaf.shape
        names = key_of(path)
        names = (names,) if isinstance(names, str) else names
        if path[0] == "x_embedder" and path[-1] == "kernel":
            side = module.patch_size
            shape = (side, side, module.in_channels, shape[-1])
            shape = [shape[i] for i in (3, 2, 0, 1)]
        elif path[-1] == "kernel":
            shape = shape[::-1]
        found |= {name: [shape[0] // len(names), *shape[1:]] for name in names}
    return found


@pytest.mark.parametrize("name", ["dit_xl2_256", pytest.param("dit_xl2_512", marks=pytest.mark.slow), "sit_xl2_256"])
def test_published_networks(name):
    for part, entry in published(name).items():
        module = dit.make_network(entry["config"])
        if part == "original":
            side = module.input_size // module.patch_size
            found = torch_shapes(module, dit.original_key) | {"pos_embed": [1, side**2, module.hidden_size]}
        else:
            found = torch_shapes(module, dit.diffusers_key)
            embedders = {key: shape for key, shape in found.items() if ".norm1.emb." in key}
            for i in range(1, module.depth):
                found |= {key.replace("blocks.0.", f"blocks.{i}."): shape for key, shape in embedders.items()}
        assert found == dict(entry["keys"])
        assert sum(int(np.prod(shape)) for shape in found.values()) == entry["parameters"]


def test_the_table_of_positions_is_that_of_the_files():
    for name in FILES:
        reference = read(name)[1]["pos_embed"]
        side = int(reference.shape[1] ** 0.5)
        table = position_table(side, side, side, reference.shape[-1])
        np.testing.assert_allclose(table.reshape(reference.shape), reference, atol=1e-6)


# --- files with more, less and other in them -------------------------------------------------------------------------


def weights(layout):
    meta, _, groups = read("dit_eps_probe")
    return meta["original_config"], dict(groups[layout])


def test_every_wrong_key_of_the_original_is_named():
    config, state = weights("sd_original")
    del state["blocks.1.attn.qkv.bias"]
    state["blocks.2.attn.qkv.bias"] = np.zeros(3)
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"][..., :1]
    state["pos_embed"] = state["pos_embed"][:, ::-1]
    with pytest.raises(ValueError, match="do not fit") as info:
        dit.load(config, state)
    missing, surplus, misshapen, different = str(info.value).split(";")
    assert "missing blocks.1.attn.qkv.bias" in missing
    assert "surplus blocks.2.attn.qkv.bias" in surplus
    assert "x_embedder.proj.weight (torch shape (32, 4, 2, 1)" in misshapen
    assert "different pos_embed" in different


@pytest.mark.parametrize("value", [None, np.zeros((1, 9, 32))])
def test_a_table_of_positions_of_another_size_is_named(value):
    config, state = weights("sd_original")
    state["pos_embed"] = value
    if value is None:
        del state["pos_embed"]
    with pytest.raises(ValueError, match=r"missing pos_embed|pos_embed \(torch shape \(1, 9, 32\), expected"):
        dit.load(config, state)


def test_every_wrong_key_of_diffusers_is_named():
    config, state = weights("sd")
    repeated = "transformer_blocks.1.norm1.emb."
    state[f"{repeated}class_embedder.embedding_table.weight"] += np.float32(1e-3)
    del state[f"{repeated}timestep_embedder.linear_1.bias"], state["transformer_blocks.0.attn1.to_k.weight"]
    query, value = (f"transformer_blocks.1.attn1.to_{part}.weight" for part in "qv")
    state[query], state[value] = state[query][:-1], np.concatenate([state[value], state[value][:1]])
    with pytest.raises(ValueError, match="do not fit") as info:
        dit.load(config, state)
    missing, misshapen, different = str(info.value).split(";")
    assert "transformer_blocks.0.attn1.to_k.weight" in missing
    assert f"{repeated}timestep_embedder.linear_1.bias" in missing
    assert query in misshapen
    assert value in misshapen
    assert (
        f"different {repeated}class_embedder.embedding_table.weight (has to be that of transformer_blocks.0"
        in different
    )


def test_the_layouts_of_repa_and_of_internal_guidance():
    """Projectors are left out, older files count the blocks after the aligned one anew, a second head is kept."""
    config, state = weights("sd_original")
    state["final_layer.linear.weight"] = state["final_layer.linear.weight"][:16]
    state["final_layer.linear.bias"] = state["final_layer.linear.bias"][:16]
    config = {name: value for name, value in config.items() if name != "learn_sigma"}
    config |= {"encoder_depth": 1, "z_dims": [8], "decoder_hidden_size": 32, "path_type": "linear", "qk_norm": False}
    module, params = dit.load(config, state)
    assert module.out_channels == module.in_channels
    assert module.internal_head is None
    older = {key.replace("blocks.1.", "decoder_blocks.0."): value for key, value in state.items()}
    older |= {f"projectors.0.{i}.{part}": np.zeros(8) for i in (0, 2, 4) for part in ("weight", "bias")}
    jax.tree.map(np.testing.assert_array_equal, params, dit.load(config, older)[1])
    heads = {key.replace("final_layer", "final_layer_xr"): 2 * state[key] for key in state if "final_layer" in key}
    module, params = dit.load(config, state | heads)
    assert module.internal_head == 0
    pair = [params["params"][name]["linear"]["kernel"] for name in ("internal_layer", "final_layer")]
    np.testing.assert_array_equal(pair[0], 2 * pair[1])


def test_a_table_in_half_precision_is_the_fixed_one():
    config, state = weights("sd_original")
    state["pos_embed"] = np.asarray(jnp.asarray(state["pos_embed"], jnp.bfloat16), np.float32)
    dit.load(config, state)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 3}, "neither DiT nor SiT knows: width"),
        ({"qk_norm": True}, "qk_norm"),
        ({"hidden_size": 64, "decoder_hidden_size": 32}, "decoder_hidden_size"),
        ({"norm_type": "ada_norm_single"}, "ada_norm_single"),
        ({"num_layers": 2, "attention_bias": False}, "attention_bias"),
    ],
)
def test_a_configuration_of_something_else_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        dit.make_network(config)


def test_configurations_are_completed_with_the_defaults():
    for config in (
        {},
        {"_class_name": "Transformer2DModel", "num_layers": 28, "out_channels": 8, "upcast_attention": 1},
    ):
        module = dit.make_network(config)
        assert module.hidden_size // module.num_heads == 72
        assert (module.depth, module.out_channels, module.num_classes) == (28, 8, 1000)
        assert (module.frequency_shift, module.norm_epsilon) == (0, 1e-6)
    assert dit.make_network({"num_layers": 2, "norm_eps": 1e-3}, "diffusers").norm_epsilon == 1e-3
    assert not dit.make_network({"class_dropout_prob": 0.0}).null_label
    with pytest.raises(ValueError, match="original or diffusers"):
        dit.make_network({}, "Diffusers")
