"""The reference's own numbers of Stable Diffusion 3's transformer, and what does not fit it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models.transformer import position_table
from guided_jax.pretrained import stable_diffusion
from tests import latent_golden as golden

NAMES = ("sd3_mmdit", "sd3_eps_probe_qk_norm")


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def read(name):
    """Return (module, params, arrays) of a golden file."""
    meta, arrays, groups = golden.read(name)
    arrays = {key: array if array.ndim == 4 else jnp.asarray(array) for key, array in arrays.items()}
    return *stable_diffusion.load_transformer(meta["config"], groups["sd"]), arrays


@pytest.mark.parametrize("name", NAMES)
def test_the_references_numbers(name):
    module, params, arrays = read(name)
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) - params["params"]["positions"].size
    assert count == golden.read(name)[0]["params"]

    @jax.jit
    def output_and_vjps(x, context, w):
        call = lambda x, context: module.apply(params, x, arrays["t"], context, arrays["pooled"])  # noqa: E731
        output, pull = jax.vjp(call, x, context)
        return output, *pull(w)

    output, vjp_x, vjp_context = output_and_vjps(golden.nhwc(arrays["x"]), arrays["ctx"], golden.nhwc(arrays["vjp_w"]))
    assert golden.error(output, arrays["out"]) < 2e-4
    assert golden.error(vjp_x, arrays["vjp_x"]) < 5e-4
    assert golden.error(vjp_context, arrays["vjp_ctx"]) < 5e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_table_of_positions_is_that_of_the_files(name):
    module, params, _ = read(name)
    ours = position_table(module.positions, module.positions, module.sample_size // 2, module.hidden_size)
    np.testing.assert_allclose(ours.reshape(1, -1, module.hidden_size), params["params"]["positions"], atol=1e-6)


@pytest.mark.slow
def test_any_batch_axes_and_the_network_without_blocks():
    module, params, arrays = read("sd3_mmdit")
    x, given = golden.nhwc(arrays["x"]), (arrays["t"], arrays["ctx"], arrays["pooled"])
    run = jax.jit(module.apply)
    one = run(params, x[0], *(each[0] for each in given))
    assert golden.error(one[None], arrays["out"][:1]) < 2e-4
    two = run(params, x[:, None], *(each[:, None] for each in given))
    assert golden.error(two[:, 0], arrays["out"]) < 2e-4
    fewer = jax.jit(module.clone(skip_blocks=(1,)).apply)(params, x[0], *(each[0] for each in given))
    assert jnp.abs(fewer - one).max() > 1e-2


def test_shapes_that_do_not_fit():
    module, params, arrays = read("sd3_mmdit")
    x, given = golden.nhwc(arrays["x"]), (arrays["t"], arrays["ctx"], arrays["pooled"])
    for change, message in (
        ({"x": x[..., :4]}, "takes 16 channels and was given 4"),
        ({"x": jnp.zeros((2, 24, 8, 16))}, "x is 24x8; the network has positions for 20x20 at most"),
        ({"context": given[1][..., :3]}, "it has 24 numbers"),
        ({"pooled": given[2][:, :3]}, "it has 20 numbers"),
    ):
        arguments = {"x": x, **dict(zip(("t", "context", "pooled"), given, strict=True)), **change}
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.apply, params, **arguments)
    with pytest.raises(ValueError, match="skip_blocks has blocks_3, but the network has blocks_0"):
        jax.eval_shape(module.clone(skip_blocks=(3,)).apply, params, x, *given)


def test_weights_and_configurations_that_do_not_fit():
    meta, _, groups = golden.read("sd3_eps_probe_qk_norm")
    weights = dict(groups["sd"])
    del weights["transformer_blocks.0.attn.norm_added_k.weight"]
    weights["transformer_blocks.1.attn.to_add_out.weight"] = np.zeros((32, 32))
    weights["proj_out.weight"] = weights["proj_out.weight"][:-1]
    with pytest.raises(ValueError, match="do not fit") as info:
        stable_diffusion.load_transformer(meta["config"], weights)
    missing, surplus, misshapen = str(info.value).split("; ")
    assert "missing transformer_blocks.0.attn.norm_added_k.weight" in missing
    assert surplus == "surplus transformer_blocks.1.attn.to_add_out.weight"
    assert "proj_out.weight (torch shape (63, 32)" in misshapen
    for change, message in (
        ({"num_layers": 0}, "num_layers of the configuration is 0"),
        ({"caption_projection_dim": 64}, "it has to be 32"),
        ({"dual_attention_layers": [0]}, "dual_attention_layers"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"_class_name": "FluxTransformer2DModel"}, "only SD3Transformer2DModel"),
    ):
        with pytest.raises(ValueError, match=message):
            stable_diffusion.make_transformer(meta["config"] | change)
