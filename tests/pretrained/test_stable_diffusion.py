"""The references' own numbers of Stable Diffusion's U-Nets, by both layouts of weights; the published ones counted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.pretrained import readers, stable_diffusion
from guided_jax.pretrained.stable_diffusion import names
from tests import latent_golden as golden

# The files in the fast suite, each by its first call, and of one the gradients too.
FAST = ("unet_eps_probe", *(f"unet_class_{name}" for name in ("embed", "timestep", "projection")))
CALLS = [
    *[pytest.param("unet_sd1", i, True, marks=pytest.mark.slow) for i in range(4)],  # 2: an odd size, 3: a mask
    *[pytest.param(f"unet_{name}", 0, True, marks=pytest.mark.slow) for name in ("sd2", "sdxl", "inpaint")],
    *[(name, 0, name == "unet_eps_probe") for name in FAST],
    *[pytest.param(name, 0, True, marks=pytest.mark.slow) for name in FAST if name != "unet_eps_probe"],
]
# Names in the files -> those of our arguments.
CONDITIONS = {
    "class_labels": "label",
    "encoder_attention_mask": "mask",
    "text_embeds": "pooled",
    "time_ids": "time_ids",
}


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def read(name, call=0):
    """Return (module, params, inputs, reference) of one call of a golden file."""
    meta, arrays, groups = golden.read(name)
    module, params = stable_diffusion.load_unet(meta["config"], groups["sd"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == meta["params"]
    found = {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"call{call}/")}
    inputs = {"x": golden.nhwc(found["x"]), "t": found["t"], "context": found["ctx"]}
    inputs |= {ours: found[theirs] for theirs, ours in CONDITIONS.items() if theirs in found}
    if module.class_embedding == "table":
        inputs["label"] = inputs["label"].astype(int)
    return module, params, inputs, found


@pytest.mark.parametrize(("name", "call", "gradients"), CALLS)
def test_the_references_numbers(name, call, gradients):
    module, params, inputs, reference = read(name, call)
    x, context = inputs.pop("x"), inputs.pop("context")

    @jax.jit
    def output_and_vjps(x, context, w, others):
        network = lambda x, context: module.apply(params, x, context=context, **others)  # noqa: E731
        if not gradients:
            return network(x, context), None, None
        output, pull = jax.vjp(network, x, context)
        return output, *pull(w)

    output, vjp_x, vjp_context = output_and_vjps(x, context, golden.nhwc(reference["vjp_w"]), inputs)
    assert golden.error(output, reference["out"]) < 1e-4
    if gradients:
        assert golden.error(vjp_x, reference["vjp_x"]) < 5e-4
        assert golden.error(vjp_context, reference["vjp_ctx"]) < 5e-4


# --- layouts of the weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint():
    """(config, weights in diffusers' layout, the single file with them) of a tiny Stable Diffusion 1."""
    folder = golden.FOLDER / "checkpoints"
    config = json.loads((folder / "sd1" / "unet" / "config.json").read_text())
    weights = readers.read_state_dict(folder / "sd1" / "unet" / "diffusion_pytorch_model.safetensors")
    return config, weights, readers.read_state_dict(folder / "sd1_ldm.safetensors")


@pytest.mark.parametrize("whole", [True, False])
def test_the_single_file_is_the_folder(checkpoint, whole):
    """With the other networks, averages and tables beside the U-Net, and without them and their prefix."""
    config, weights, single = checkpoint
    if not whole:
        single = {key.removeprefix(names.PREFIX): single[key] for key in single if key.startswith(names.PREFIX)}
    params = stable_diffusion.load_unet(config, weights)[1]
    module, same = stable_diffusion.load_unet(config, single)
    assert module.attention_levels == (True, False)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-3), params, same)
    kernels = [each["params"]["output_blocks_2_1"]["transformer_blocks_0"]["attn2"]["to_k"] for each in (params, same)]
    np.testing.assert_array_equal(*(each["kernel"] for each in kernels))


def compvis(name):
    """Return the weights of a golden file under CompVis' names, in the single file of a model."""
    meta, _, groups = golden.read(name)
    module = stable_diffusion.make_unet(meta["config"])
    paths = [
        [each.key for each in path] for path, _ in jax.tree.leaves_with_path(stable_diffusion.shapes(module)["params"])
    ]
    key = {names.diffusers_key(path, module.layers_per_block): names.compvis_key(path) for path in paths}
    assert key.keys() == groups["sd"].keys()
    assert len(set(key.values())) == len(key)
    return meta["config"], groups["sd"], {names.PREFIX + key[each]: array for each, array in groups["sd"].items()}


@pytest.mark.parametrize("name", ["unet_sdxl", "unet_class_embed", "unet_class_projection"])
def test_the_names_of_the_single_files(name):
    config, weights, single = compvis(name)
    expected = {
        "unet_sdxl": {"label_emb.0.2.bias", "output_blocks.1.2.conv.weight", "input_blocks.2.0.op.weight"},
        "unet_class_embed": {"label_emb.weight", "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight"},
        "unet_class_projection": {"label_emb.0.0.weight", "label_emb.0.2.weight", "out.2.bias"},
    }[name]
    assert {names.PREFIX + key for key in expected} < single.keys()
    params = stable_diffusion.load_unet(config, weights)[1]
    jax.tree.map(np.testing.assert_array_equal, params, stable_diffusion.load_unet(config, single)[1])


@pytest.mark.parametrize("layout", ["diffusers", "compvis"])
def test_every_wrong_key_is_named_as_in_the_file(checkpoint, layout):
    config, weights, single = checkpoint
    if layout == "diffusers":
        wrong = dict(weights)
        prefix, missing, misshapen = "", "time_embedding.linear_2.bias", "mid_block.attentions.0.proj_in.weight"
    else:
        wrong, prefix = dict(single), names.PREFIX
        missing, misshapen = f"{prefix}time_embed.2.bias", f"{prefix}middle_block.1.proj_in.weight"
    del wrong[missing]
    wrong[misshapen] = wrong[misshapen][:-1]
    wrong[f"{prefix}up_blocks.x"] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit") as info:
        stable_diffusion.load_unet(config, wrong)
    first, second, third = str(info.value).split("; ")
    assert first.endswith(f"missing {missing}")
    assert second == f"surplus {prefix}up_blocks.x"
    assert third.startswith(f"misshapen {misshapen} (torch shape")
    assert third.count("torch shape") == 1


# --- configurations --------------------------------------------------------------------------------------------------


def test_missing_arguments_have_the_references_defaults_and_unknown_ones_are_ignored():
    module = stable_diffusion.make_unet({"tomorrows": 3, "mid_block_type": "UNetMidBlock2DCrossAttn", "freq_shift": 0})
    assert module.block_out_channels == (320, 640, 1280, 1280)
    assert module.attention_levels == (True, True, True, False)
    assert (module.num_heads, module.transformer_layers) == ((8,) * 4, (1,) * 4)
    assert (module.cross_attention_dim, module.in_channels, module.class_embedding) == (1280, 4, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels of the configuration is 0; it has to be a positive whole number"),
        ({"block_out_channels": 320}, "it has to be a list of positive whole numbers"),
        ({"block_out_channels": [30, 60, 60, 60]}, "30 of block_out_channels cannot be split into 32 norm groups"),
        ({"block_out_channels": [32, 64]}, "only 2 times CrossAttnDownBlock2D or DownBlock2D"),
        ({"up_block_types": ["CrossAttnUpBlock2D"] * 4}, "the same reversed"),
        ({"attention_head_dim": [8, 8]}, "attention_head_dim of the configuration is .*, or a list of 4"),
        ({"transformer_layers_per_block": [1, 2, [3], 1]}, "transformer_layers_per_block"),
        ({"only_cross_attention": 1}, "it has to be true or false"),
        (
            {"class_embed_type": "identity"},
            "class_embed_type of the configuration is 'identity'; only None or timestep",
        ),
        ({"class_embed_type": "projection"}, "projection_class_embeddings_input_dim of the configuration is None"),
        ({"addition_embed_type": "text"}, "only None or text_time"),
        (
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816},
            "addition_time_embed_dim of the configuration is None",
        ),
        ({"num_class_embeds": -1}, "num_class_embeds of the configuration is -1"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim of the configuration is 256"),
        ({"mid_block_type": None}, "mid_block_type of the configuration is None"),
        ({"_class_name": "UNet2DModel"}, "only UNet2DConditionModel"),
    ],
)
def test_a_configuration_of_another_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        stable_diffusion.make_unet(change)


# --- half precision, and the published sizes -------------------------------------------------------------------------


def test_half_precision():
    meta, _, groups = golden.read("unet_class_projection")
    module, params = stable_diffusion.load_unet(meta["config"], groups["sd"], jnp.bfloat16)
    _, _, inputs, reference = read("unet_class_projection")
    golden.check_half(params, jax.jit(module.apply)(params, **inputs), reference["out"])


@pytest.mark.parametrize(
    "name", ["sd1.5", "sdxl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd1.5_inpainting", "sd2.1"))]
)
def test_published_sizes(name):
    """Every key and shape of the list, and no other; of the one for inpainting the first layer is recorded."""
    recorded = golden.published("unets")[name]
    module = stable_diffusion.make_unet(recorded["config"])
    shapes = stable_diffusion.shapes(module)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == recorded["parameters"]
    ours, listed = golden.key_shapes(shapes, recorded, lambda path: names.diffusers_key(path, module.layers_per_block))
    assert listed == (ours if listed.keys() != {"conv_in.weight"} else {"conv_in.weight": ours["conv_in.weight"]})
