"""EDM2's own numbers: its weights imported, its outputs and gradients met; its published sizes compared name by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser
from guided_jax.models import attention_blocks, attention_mass, identity_attention, prepare_params
from guided_jax.models.edm2.blocks import normalize
from guided_jax.pretrained import edm2
from guided_jax.schedule import NoiseLevel
from tests import latent_golden as golden

NAMES = ("edm2_cond_logvar", "edm2_uncond")
CONDITIONAL = golden.read("edm2_cond_logvar")
CONFIG, ARRAYS, STATE = CONDITIONAL[0]["config"], CONDITIONAL[1], CONDITIONAL[2]["sd"]
NULL = CONFIG["label_dim"]  # the label beyond the classes


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def conditional():
    with jax.default_matmul_precision("highest"):
        return edm2.load(CONFIG, STATE)


def labels(arrays):
    """Return the labels of one-hot rows, the null label of a row of zeros; None without classes."""
    rows = arrays.get("class_labels")
    return None if rows is None else jnp.asarray(np.where(rows.any(1), rows.argmax(1), rows.shape[1]))


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_outputs_and_gradients(name):
    meta, arrays, groups = golden.read(name)
    module, params = edm2.load(meta["config"], groups["sd"])
    levels = NoiseLevel(
        *(jnp.asarray(each) for each in (arrays["sigma"], np.ones_like(arrays["sigma"]), arrays["sigma"]))
    )
    c_noise = np.log(arrays["sigma"]) / 4

    @jax.jit
    def everything(params, x, w, label):
        def denoise(x):
            """Return the prediction of x_0 and the output of the network that it is made of."""

            def one(x, level, label):
                raw = []

                def network(x, c_noise):
                    raw.append(module.apply(params, x, c_noise, label))
                    return raw[0]

                return denoiser.edm(network)(x, level).x_0, raw[0]

            return jax.vmap(one)(x, levels, label)

        denoised, pull, raw = jax.vjp(denoise, x, has_aux=True)
        log_variance = module.apply(params, jnp.asarray(c_noise), method="log_variance")
        return denoised, pull(w)[0], raw, log_variance

    x, w, label = golden.nhwc(arrays["x"]), golden.nhwc(arrays["vjp_w"]), labels(arrays)
    denoised, gradient, raw, log_variance = everything(params, x, w, label)
    assert golden.error(denoised, arrays["denoised"]) < 1e-4
    assert golden.error(raw, arrays["raw"]) < 1e-4
    assert golden.error(gradient, arrays["vjp_x"]) < 5e-4
    assert golden.error(log_variance, arrays["logvar"].ravel()) < 1e-4
    if label is not None:
        unlabelled, *_ = everything(params, x, w, jnp.full_like(label, NULL))
        assert golden.error(unlabelled, arrays["denoised_no_label"]) < 1e-4
        assert golden.error(unlabelled, arrays["denoised"]) > 0.01


@pytest.mark.slow
def test_any_leading_axes_and_sizes_of_its_own(conditional):
    """One picture, a batch of batches, and sides that differ; None and the label beyond the classes say the same."""
    module, params = conditional
    apply = jax.jit(module.apply)
    x = jax.random.normal(jax.random.key(0), (2, 3, 16, 8, 4))
    c_noise, label = jnp.linspace(-1, 1, 6).reshape(2, 3), jnp.asarray([[0, 1, 2], [3, 5, NULL]])
    together = apply(params, x, c_noise, label)
    assert together.shape == x.shape
    np.testing.assert_allclose(apply(params, x[1, 2], c_noise[1, 2], None), together[1, 2], atol=1e-5)
    log_variances = module.apply(params, c_noise, method="log_variance")
    assert log_variances.shape == (2, 3)
    np.testing.assert_allclose(
        module.apply(params, c_noise[0, 1], method="log_variance"), log_variances[0, 1], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((16, 16, 3), 0.0, 0), "takes 4 channels and was given 3"),
        (((16, 18, 4), 0.0, 0), "16x18 cannot be halved 2 times"),
        (((16, 16, 4), 0.0, NULL + 1), "between 0 and 6"),
        (((2, 16, 16, 4), jnp.zeros(3), 0), "c_noise of shape"),
        (((2, 16, 16, 4), 0.0, jnp.zeros(3, int)), "label of shape"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, conditional):
    module, params = conditional
    shape, c_noise, label = arguments
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(module.apply, params, jnp.zeros(shape), c_noise, label))


def test_a_network_without_classes_takes_no_label():
    meta, _, groups = golden.read("edm2_uncond")
    module, params = edm2.load(meta["config"], groups["sd"])
    with pytest.raises(ValueError, match="takes no label"):
        jax.eval_shape(functools.partial(module.apply, params, jnp.zeros((8, 8, 3)), 0.0, 0))


@pytest.mark.slow
def test_half_precision(conditional):
    """The weights take half of the memory, except those of the embeddings and of the last convolution."""
    module, params = edm2.load(CONFIG, STATE, dtype=jnp.bfloat16)
    types = {leaf.dtype for leaf in jax.tree.leaves(params["params"]["unet.enc.8x8_block0"])}
    assert types == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    for name in ("unet.emb_fourier", "unet.emb_noise", "unet.emb_label", "unet.out_conv", "logvar_fourier"):
        assert {leaf.dtype for leaf in jax.tree.leaves(params["params"][name])} == {jnp.dtype("float32")}
    x, c_in = golden.nhwc(ARRAYS["x"]), 1 / np.sqrt(ARRAYS["sigma"] ** 2 + 0.25)
    raw = jax.jit(module.apply)(
        params, x * c_in[:, None, None, None], jnp.asarray(np.log(ARRAYS["sigma"]) / 4), labels(ARRAYS)
    )
    assert raw.dtype == jnp.float32
    assert 1e-4 < golden.error(raw, ARRAYS["raw"]) < 0.1


def test_perturbed_attention_changes_the_blocks_that_are_named(conditional):
    module, params = conditional
    names = attention_blocks(module)
    assert names[0] == "enc.8x8_block0"
    assert "dec.4x4_in0" in names
    assert "dec.16x16_block0" not in names
    x = jax.random.normal(jax.random.key(1), (16, 16, 4))
    perturbed = [
        module.clone(perturb=identity_attention, perturb_blocks=blocks) for blocks in (None, ["dec.4x4_in0"], names)
    ]
    plain, *others = (jax.jit(net.apply)(params, x, 0.1, 2) for net in (module, *perturbed))
    np.testing.assert_array_equal(others[0], others[1])
    assert jnp.abs(others[0] - plain).max() > 1e-4
    assert jnp.abs(others[2] - others[0]).max() > 1e-4
    with pytest.raises(ValueError, match=r"perturb_blocks takes enc\.8x8_block0, "):
        jax.eval_shape(
            functools.partial(
                module.clone(perturb=identity_attention, perturb_blocks=["dec.4x4_in1"]).apply, params, x, 0.1, 2
            )
        )


def test_attention_mass_has_mean_1(conditional):
    module, params = conditional
    x = jax.random.normal(jax.random.key(3), (2, 16, 16, 4))
    for block in (None, "enc.8x8_block0"):
        mass = jax.jit(lambda x, block=block: attention_mass(module, params, x, 0.1, 2, block))(x)
        assert mass.shape == (2, 16, 16)
        np.testing.assert_allclose(mass.mean((1, 2)), 1, rtol=1e-5)
        assert mass.std() > 0.01


def test_prepared_weights_recomputation_and_the_plain_convolution_give_the_same_numbers(conditional):
    module, params = conditional
    x = jax.random.normal(jax.random.key(2), (16, 16, 4))
    expected = jax.jit(module.apply)(params, x, 0.3, 1)
    prepared = prepare_params(module, params, x, 0.3, 1)
    np.testing.assert_allclose(jax.jit(module.apply)(prepared, x, 0.3, 1), expected, atol=1e-5)
    plain = module.clone(remat=True, plain_convolution=True, attention_kernel="xla")
    forward = jax.jit(lambda x: jax.jvp(lambda x: plain.apply(params, x, 0.3, 1), (x,), (x,)))
    found, tangent = forward(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    near = [jax.jit(module.apply)(params, factor * x, 0.3, 1) for factor in (1.01, 0.99)]
    np.testing.assert_allclose(tangent, (near[0] - near[1]) / 0.02, atol=0.02 * jnp.abs(tangent).max())


def test_normalisation_has_a_gradient_at_zero():
    """That of x / 1e-4, where a root of the sum of squares would give nan."""
    gradient = jax.jacrev(normalize)(jnp.zeros(3))
    np.testing.assert_allclose(gradient, 1e4 * np.eye(3), rtol=1e-5)


# --- keys and configurations -----------------------------------------------------------------------------------------


def test_every_wrong_key_is_named_in_one_error():
    state = dict(STATE)
    state["unet.out_gain"] = state["unet.out_gain"][None]
    state["unet.dec.4x4_in0.attn_qkv.weight"] = state["unet.dec.4x4_in0.attn_qkv.weight"][:-1]
    state["unet.enc.16x16_conv.weight"] = state["unet.enc.16x16_conv.weight"][:, :-1]
    state["unet.emb_noise.weight"] = np.zeros((0, 16))
    state["unet.emb_fourier.freqs"] = state["unet.emb_fourier.freqs"][:-1]
    del state["unet.dec.8x8_up.emb_gain"], state["logvar_linear.weight"]
    state["unet.dec.8x8_up.bias"] = np.zeros(32)
    with pytest.raises(ValueError, match="do not fit") as info:
        edm2.load(CONFIG, state)
    missing, surplus, misshapen = str(info.value).split("; ")
    assert "missing logvar_linear.weight, unet.dec.8x8_up.emb_gain" in missing
    assert surplus == "surplus unet.dec.8x8_up.bias"
    for key, shape in {
        "unet.out_gain": "(1,)",
        "unet.dec.4x4_in0.attn_qkv.weight": "(95, 32, 1, 1)",
        "unet.enc.16x16_conv.weight": "(16, 4, 3, 3)",
        "unet.emb_noise.weight": "(0, 16)",
        "unet.emb_fourier.freqs": "(15,)",
    }.items():
        assert f"{key} (torch shape {shape}" in misshapen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 3}, "does not know: width"),
        ({"label_dim": ...}, "lacks label_dim"),
        ({"resample_filter": [1, 3, 3, 1]}, r"resample_filter \[1, 1\]"),
    ],
)
def test_a_wrong_configuration_is_refused(change, message):
    config = {name: value for name, value in (CONFIG | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        edm2.make_network(config)


def torch_shapes(module):
    """Return {torch key: shape} of all that is read for a network."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(edm2.shapes(module)["params"])
    found = {}
    for path, leaf in leaves:
        names, shape = [each.key for each in path], leaf.shape
        if names[-1] == "kernel":
            ones = (1, 1) if names[-2] in ("attn_qkv", "attn_proj", "conv_skip") else ()
            shape = (*shape[::-1][:2], *shape[:-2], *ones)
        key, *gains = edm2.torch_keys(names)
        found |= {key: shape} | dict.fromkeys(gains, ())
    return found


PUBLISHED = golden.published("edm2")
# They differ in width and in the number of blocks; in the fast suite the smallest and the largest.
BY_SIZE = sorted(PUBLISHED, key=lambda name: PUBLISHED[name]["parameters"])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in (BY_SIZE[0], BY_SIZE[-1]) else pytest.mark.slow) for name in PUBLISHED],
)
def test_published_networks(name):
    wanted, shapes = PUBLISHED[name], torch_shapes(edm2.make_network(PUBLISHED[name]["config"]))
    assert shapes == {key: tuple(shape) for key, shape in wanted["keys"]}
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    assert sum(sizes.values()) == wanted["state_dict_elements"]
    buffers = sum(size for key, size in sizes.items() if key.endswith((".freqs", ".phases")))
    assert sum(sizes.values()) - buffers == wanted["parameters"]


def test_the_recorded_networks_are_counted():
    for name in NAMES:
        meta, _, groups = golden.read(name)
        shapes = torch_shapes(edm2.make_network(meta["config"]))
        assert shapes == {key: array.shape for key, array in groups["sd"].items()}
