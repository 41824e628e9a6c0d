"""The reference's own numbers of AutoencoderKL, by every layout of its weights; the published ones counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import AutoencoderKL
from guided_jax.pretrained import autoencoder
from tests import latent_golden as golden

NAMES = ("vae_sd", "vae_sd3", "vae_sdxl_like", "vae_eps_probe")


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def numbers(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "gradients"),
    [*golden.cases(NAMES[1:], ["vae_sdxl_like"]), pytest.param(NAMES[0], True, marks=pytest.mark.slow)],
)
def test_the_references_numbers(name, gradients):
    meta, arrays, groups = golden.read(name)
    module, params = autoencoder.load(meta["config"], groups["sd"])
    assert numbers(params) == meta["params"]

    @jax.jit
    def outputs_and_vjps(x, z, w_encode, w_decode):
        apply = functools.partial(module.apply, params)
        mean, log_variance = apply(x, method="encode")
        outputs = {"mean": mean, "logvar": log_variance}
        if not gradients:
            return {**outputs, "decoded": apply(z, method="decode")}, {}
        moments, pull_x = jax.vjp(lambda x: apply(x, method="moments"), x)
        decoded, pull_z = jax.vjp(lambda z: apply(z, method="decode"), z)
        outputs |= {"moments": moments, "decoded": decoded}
        return outputs, {"vjp_x": pull_x(w_encode)[0], "vjp_z": pull_z(w_decode)[0]}

    given = (golden.nhwc(arrays[key]) for key in ("x", "z", "vjp_w_encode", "vjp_w_decode"))
    outputs, gradients = outputs_and_vjps(*given)
    for key, ours in outputs.items():
        assert golden.error(ours, arrays[key]) < 1e-4, key
    for key, ours in gradients.items():
        assert golden.error(ours, arrays[key]) < 5e-4, key


def test_the_log_variance_is_clipped():
    """Of the probe for it: the reference's own log variance ends at both limits."""
    _, arrays, _ = golden.read("vae_sdxl_like")
    raw = arrays["moments"][:, 4:]
    assert raw.min() < -30
    assert raw.max() > 20
    assert (arrays["logvar"].min(), arrays["logvar"].max()) == (-30, 20)


# --- layouts of the weights ------------------------------------------------------------------------------------------


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def attention_renamed(groups, old):
    """Return the weights with those of `old` for the attention."""
    current = {key: value for key, value in groups["sd"].items() if ".to_" not in key}
    return current | old


def test_the_deprecated_names_of_the_attention():
    meta, _, groups = golden.read("vae_sd")
    params = autoencoder.load(meta["config"], groups["sd"])[1]
    old = groups["sd_old"]
    assert same(autoencoder.load(meta["config"], attention_renamed(groups, old))[1], params)
    convolutions = {key: value[..., None, None] if value.ndim == 2 else value for key, value in old.items()}
    assert same(autoencoder.load(meta["config"], attention_renamed(groups, convolutions))[1], params)


@pytest.fixture(scope="module")
def single_file():
    return golden.read("vae_single_file")


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
def test_the_names_of_the_single_files(prefix, single_file):
    """With the networks and tables beside it in the file of a whole model, and those of its training in its own."""
    meta, _, groups = single_file
    weights = groups["sd_ldm"]
    if not prefix:
        start = "first_stage_model."
        weights = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
        weights["loss.logvar"] = np.zeros(())
    module, params = autoencoder.load(meta["config"], weights)
    assert module.block_out_channels == (16, 16, 32)
    assert same(params, autoencoder.load(meta["config"], groups["sd"])[1])


# --- mistakes in the weights and the configuration -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["sd", "sd_old", "sd_ldm"])
def test_every_wrong_key_is_named_as_in_the_file(layout, single_file):
    meta, _, groups = single_file if layout == "sd_ldm" else golden.read("vae_sd")
    weights = attention_renamed(groups, groups["sd_old"]) if layout == "sd_old" else dict(groups[layout])
    missing, misshapen, surplus = {
        "sd": (
            "encoder.mid_block.attentions.0.to_q.bias",
            "decoder.up_blocks.2.resnets.0.conv_shortcut.weight",
            "decoder.x",
        ),
        "sd_old": ("decoder.mid_block.attentions.0.proj_attn.bias", "quant_conv.weight", "encoder.x"),
        "sd_ldm": (
            "first_stage_model.decoder.up.2.upsample.conv.bias",
            "first_stage_model.decoder.mid.attn_1.v.weight",
            "first_stage_model.encoder.x",
        ),
    }[layout]
    del weights[missing]
    weights[misshapen] = weights[misshapen][:-1]
    weights[surplus] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit") as info:
        autoencoder.load(meta["config"], weights)
    first, second, third = str(info.value).split("; ")
    assert first.endswith(f"missing {missing}")
    assert second == f"surplus {surplus}"
    assert third.startswith(f"misshapen {misshapen} (torch shape")
    assert third.count("torch shape") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": []}, r"block_out_channels of the configuration is \[\]"),
        ({"block_out_channels": 64}, "list of positive whole numbers"),
        ({"block_out_channels": [16, -32]}, r"\[16, -32\]"),
        ({"block_out_channels": [16, 36]}, "36 of block_out_channels cannot be split into 8 norm groups"),
        ({"block_out_channels": [16, 32, 32]}, "only 3 times DownEncoderBlock2D"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "AttnDownEncoderBlock2D"),
        ({"up_block_types": 3}, "up_block_types of the configuration is 3"),
        (
            {"layers_per_block": 1.5},
            "layers_per_block of the configuration is 1.5; it has to be a positive whole number",
        ),
        ({"latent_channels": True}, "latent_channels"),
        ({"norm_num_groups": None}, "norm_num_groups of the configuration is None"),
        ({"use_quant_conv": "no"}, "use_quant_conv of the configuration is 'no'; it has to be true or false"),
        ({"act_fn": "gelu"}, "act_fn of the configuration is 'gelu'; only silu"),
        ({"_class_name": "AutoencoderTiny"}, "only AutoencoderKL"),
    ],
)
def test_a_configuration_of_no_autoencoder_is_refused(change, message):
    config = golden.read("vae_eps_probe")[0]["config"]
    types = {f"{way}_block_types": [f"{way.title()}{kind}Block2D"] * 2 for way, kind in WAYS.items()}
    with pytest.raises(ValueError, match=message):
        autoencoder.make_autoencoder(config | types | change)


WAYS = {"down": "Encoder", "up": "Decoder"}


def test_missing_arguments_have_the_references_defaults_and_unknown_ones_are_ignored():
    module = autoencoder.make_autoencoder({"force_upcast": True, "tomorrows": 3, "act_fn": None})
    assert module == AutoencoderKL(block_out_channels=(64,), layers_per_block=1)


@pytest.mark.parametrize(
    ("config", "shift", "scale"),
    [
        ({}, 0, 0.18215),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, 0.0609, 1.5305),
        ({"scaling_factor": 0.13025, "shift_factor": None, "latents_mean": None}, 0, 0.13025),
        (
            {"scaling_factor": 0.5, "latents_mean": [1, 2, 3, 4.0], "latents_std": [2, 4, 5, 1]},
            [1, 2, 3, 4],
            [0.25, 0.125, 0.1, 0.5],
        ),
    ],
)
def test_shift_and_scale_of_the_latents(config, shift, scale):
    found = autoencoder.latents(config)
    np.testing.assert_array_equal(found.shift, np.asarray(shift, np.float32))
    np.testing.assert_array_equal(found.scale, np.asarray(scale, np.float32))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scaling_factor": 0}, "is 0"),
        ({"scaling_factor": "0.18"}, "scaling_factor of the configuration is '0.18'; it has to be a number"),
        ({"scaling_factor": [1, 2]}, "a number"),
        ({"shift_factor": float("nan")}, "shift_factor of the configuration is nan"),
        ({"latents_mean": [1, 2]}, "list of 4"),
        ({"latents_std": [1, 2, 0, 1]}, "is 0"),
    ],
)
def test_no_shift_or_scale(config, message):
    with pytest.raises(ValueError, match=message):
        autoencoder.latents(config)


# --- half precision, and the published sizes -------------------------------------------------------------------------


@pytest.mark.slow
def test_half_precision():
    meta, arrays, groups = golden.read("vae_eps_probe")
    module, params = autoencoder.load(meta["config"], groups["sd"], jnp.bfloat16)
    assert module.dtype == jnp.bfloat16
    decoded = jax.jit(lambda z: module.apply(params, z, method="decode"))(golden.nhwc(arrays["z"]))
    golden.check_half(params, decoded, arrays["decoded"])


@pytest.mark.parametrize(("name", "component"), [("sd_vae", "vae"), ("sd3_flux_vae", "vae_sd3")])
def test_published_sizes(name, component):
    """Every key and shape of the list, and no other."""
    recorded = golden.published(name)[component]
    shapes = autoencoder.shapes(autoencoder.make_autoencoder(recorded["config"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == recorded["parameters"]
    ours, listed = golden.key_shapes(shapes, recorded, autoencoder.torch_key)
    assert listed == ours
