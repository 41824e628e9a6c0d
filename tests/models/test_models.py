"""The networks: the reference's layers, leading axes, dropout, labels, sizes, and the composition that sampling uses."""

import functools
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from jax import lax

from guided_jax.models import Classifier, UNet, blocks, check_image_size, encoder
from guided_jax.models.ops import norm

GOLDEN = Path(__file__).parents[1] / "golden" / "ops.npz"
SMALL = {"model_channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (2,)}
SMALL |= {"num_groups": 4, "num_heads": 2}
POOLS = ("adaptive", "attention", "spatial", "spatial_v2")
X = jax.random.normal(jax.random.key(7), (4, 8, 4, 1))
T = jnp.array([0.0, 1.5, 10.0, 999.0])
LABEL = jnp.array([0, 1, 2, 1])


def unet(**options):
    return UNet(**{"out_channels": 1, **SMALL, **options})


def classifier(pool="attention", **options):
    return Classifier(3, pool=pool, **{**SMALL, "num_head_channels": 8, **options})


def random_params(module, *example):
    """No zeros left: at its initial values a network ignores most of itself."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *example)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray((0.3 * rng.standard_normal(a.shape)).astype(a.dtype)), shapes)


def close(a, b, rtol=2e-5):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= rtol * np.sqrt(np.mean(b**2))


@pytest.fixture(scope="module")
def conditional():
    """A small network with three classes and the null label, its weights, and its compiled call."""
    module = unet(num_classes=3, null_label=True, dropout=0.5)
    return module, random_params(module, X, T, LABEL), jax.jit(module.apply)


@pytest.fixture(scope="module")
def fresh():
    """A new network for an image and its learned variance, and the initial values that the tests look at."""
    module = unet(out_channels=2, num_classes=500, channel_mult=(1,))
    looked_at = ("input_blocks_1_0", "middle_block_1", "time_embed_2", "label_emb", "out_2")

    @jax.jit
    def initial(key):  # of the others the random draws are slow to compile
        params = module.init(key, X, T, LABEL)["params"]
        return {name: params[name] for name in looked_at}

    return module, {"params": initial(jax.random.key(0))}


# --- the reference's layers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ops():
    with np.load(GOLDEN) as file:
        return dict(file)


def nhwc(array):
    return jnp.asarray(np.moveaxis(array, 1, -1))


def test_timestep_embedding(ops):
    for row in json.loads(str(ops["meta"]))["temb"]:
        embedding = blocks.timestep_embedding(jnp.asarray(ops[f"{row['key']}/t"]), row["dim"], row["max_period"])
        np.testing.assert_allclose(embedding, ops[f"{row['key']}/out"], atol=2e-4)


def test_bilinear_resize(ops):
    for row in json.loads(str(ops["meta"]))["interp"]:
        if row["mode"] == "bilinear":
            ours = blocks.resize_bilinear(nhwc(ops[f"{row['key']}/x"]), tuple(row["size"]))
            close(ours, nhwc(ops[f"{row['key']}/out"]), 1e-5)


def test_resampling(ops):
    x = nhwc(ops["updown/x"])
    close(blocks.upsample(x), nhwc(ops["updown/upsample_noconv"]), 1e-6)
    close(blocks.downsample(x), nhwc(ops["updown/downsample_noconv"]), 1e-5)
    assert blocks.downsample(jnp.ones((5, 7, 2))).shape == (2, 3, 2)


@pytest.mark.parametrize("axes", [(-3, -2), ()])
def test_group_norm_on_accelerators_is_that_on_cpu(axes, monkeypatch):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 24)) + 5
    layer = norm.GroupNorm(8, axes)
    params = jax.tree.map(lambda leaf: leaf + 0.3, layer.init(jax.random.key(1), x))

    def value_and_gradients(params, x):
        value, back = jax.vjp(layer.apply, params, x)
        return value, back(jnp.cos(value))

    expected = jax.jit(lambda *given: value_and_gradients(*given))(params, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = jax.jit(lambda *given: value_and_gradients(*given))(params, x)  # traced anew
    tolerance = 1e-5 if axes else 2e-3  # of three numbers near 5, without axes: some are nearly equal
    chex.assert_trees_all_close(found, expected, rtol=tolerance, atol=tolerance)


def test_group_norm_on_accelerators_loses_no_digits_to_a_large_mean(monkeypatch):
    """E[x^2] - E[x]^2 would: at a mean of 300 and a spread of 0.1 nothing of it is left in float32."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rng = np.random.default_rng(0)
    x = (300 + 0.1 * rng.standard_normal((2, 8, 8, 8))).astype(np.float32)
    got = np.asarray(norm.GroupNorm(4).init_with_output(jax.random.key(0), jnp.asarray(x))[0])
    groups = np.float64(x).reshape(2, 8, 8, 4, 2)
    spread = groups.std((1, 2, 4), keepdims=True)
    want = (groups - groups.mean((1, 2, 4), keepdims=True)) / np.sqrt(spread**2 + 1e-5)
    np.testing.assert_allclose(got, want.reshape(x.shape), atol=2e-3)  # x itself has steps of 3e-5
    same = np.full((1, 4, 4, 8), 7.0, np.float32)
    assert np.all(np.asarray(norm.GroupNorm(4).init_with_output(jax.random.key(0), jnp.asarray(same))[0]) == 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-7)])
@pytest.mark.parametrize("bias", [None, jnp.array([[0.0, -jnp.inf, 0.0, 1.0, 0.0]])])
def test_attention_on_a_gpu_is_that_on_cpu(bias, dtype, tolerance, monkeypatch):
    q, k, v = (jax.random.normal(jax.random.key(seed), (2, n, 3, 4), dtype) for seed, n in enumerate((6, 5, 5)))

    def value_and_gradients(*given):
        value, back = jax.vjp(lambda q, k, v: blocks.attend(q, k, v, bias), *given)
        return value, back(jnp.cos(value))

    on_cpu = jax.jit(lambda *given: value_and_gradients(*given)).trace(q, k, v)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_gpu = jax.jit(lambda *given: value_and_gradients(*given)).trace(q, k, v)  # of a new function, so traced anew
    assert str(on_cpu.jaxpr) != str(on_gpu.jaxpr)
    found, expected = (traced.lower().compile()(q, k, v) for traced in (on_gpu, on_cpu))
    chex.assert_trees_all_close(found, expected, rtol=10 * tolerance, atol=tolerance)


def test_group_norm(ops):
    layer = blocks.nn.GroupNorm  # parameters by hand: scale and bias of one submodule named "norm"
    params = {"scale": jnp.asarray(ops["groupnorm/weight"]), "bias": jnp.asarray(ops["groupnorm/bias"])}

    class Norm(blocks.nn.Module):
        @blocks.nn.compact
        def __call__(self, x):
            return norm.group_norm(x, 32, "norm")

    assert layer.epsilon != 1e-5  # Flax's own default would not do
    x, expected = nhwc(ops["groupnorm/x"]), nhwc(ops["groupnorm/out"])
    close(Norm().apply({"params": {"norm": params}}, x), expected, 1e-5)
    close(Norm().apply({"params": {"norm": params}}, x[0]), expected[0], 1e-5)


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_attention(ops, order):
    heads = json.loads(str(ops["meta"]))["attn"]["heads"]
    qkv, expected = (jnp.asarray(np.moveaxis(ops[f"attn_{order}/{name}"], 1, -1)) for name in ("qkv", "out"))
    close(blocks.multi_head_attention(qkv, heads, order == "new"), expected, 1e-5)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_any_number_of_leading_axes(conditional):
    _, params, apply = conditional
    batched = apply(params, X, T, LABEL)
    close(apply(params, X[1], T[1], LABEL[1]), batched[1])
    two = [a.reshape(2, 2, *a.shape[1:]) for a in (X, T, LABEL, batched)]
    close(apply(params, *two[:3]), two[3])


@pytest.mark.parametrize(
    "pool", ["adaptive", "attention", *(pytest.param(pool, marks=pytest.mark.slow) for pool in POOLS[2:])]
)
def test_any_number_of_leading_axes_for_the_classifier(pool):
    module = classifier(pool)
    params = random_params(module, X[0], T[0])
    logits = jax.jit(module.apply)(params, X.reshape(2, 2, *X.shape[1:]), T.reshape(2, 2))
    assert logits.shape == (2, 2, 3)
    assert np.abs(logits[0, 0] - logits[0, 1]).max() > 1e-3
    close(jax.jit(module.apply)(params, X[1], T[1]), logits[0, 1])


def test_scalars_are_repeated_and_other_shapes_refused(conditional):
    module, params, apply = conditional
    close(apply(params, X, 3.0, 2), apply(params, X, jnp.full(4, 3.0), jnp.full(4, 2)))
    with pytest.raises(ValueError, match="t of shape"):
        jax.eval_shape(functools.partial(module.apply, params, X, T[:3], LABEL))
    with pytest.raises(ValueError, match="label of shape"):
        jax.eval_shape(functools.partial(module.apply, params, X, T, LABEL[None]))


def test_parameters_of_other_shapes_are_refused(conditional):
    """By Flax; the tests, which do not let it compute each shape anew (tests/economy.py), leave that as it is."""
    module, params, _ = conditional
    for layer in ("time_embed_0", "input_blocks_0_0"):
        short = {
            **params["params"],
            layer: jax.tree.map(lambda leaf: np.asarray(leaf)[..., 1:], params["params"][layer]),
        }
        with pytest.raises(errors.ScopeParamShapeError, match=layer):
            jax.eval_shape(functools.partial(module.apply, {"params": short}, X, T, LABEL))


def test_guided_sampling_composition(conditional):
    """One example, vmapped, in a scan, with the classifier's gradient: the same as the batch in a Python loop."""
    _, params, apply = conditional
    guide = classifier(channel_mult=(1,), attention_resolutions=())
    guide_params = random_params(guide, X[0], T[0])

    def log_prob(x, t, label):
        log_probs = jax.nn.log_softmax(guide.apply(guide_params, x, t))
        return jnp.sum(jnp.take_along_axis(log_probs, label[..., None], axis=-1))

    def draw(x, label):
        def step(x, t):
            return x - 0.1 * apply(params, x, t, label) + 0.1 * jax.grad(log_prob)(x, t, label), None

        return lax.scan(step, x, jnp.array([5.0, 2.0]))[0]

    @jax.jit
    def step(x, t):
        return x - 0.1 * apply(params, x, t, LABEL) + 0.1 * jax.grad(log_prob)(x, t, LABEL)

    close(jax.jit(jax.vmap(draw))(X, LABEL), step(step(X, 5.0), 2.0), 1e-4)


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_is_off_without_keys_and_keyed_by_the_example(conditional):
    _, params, apply = conditional
    keys = jax.random.split(jax.random.key(3), 4)
    still = apply(params, X, T, LABEL)
    np.testing.assert_array_equal(apply(params, X, T, LABEL), still)
    dropped = apply(params, X, T, LABEL, dropout_keys=keys)
    assert np.abs(dropped - still).max() > 0.1 * np.abs(still).max()
    order = jnp.array([2, 0, 3, 1])
    close(apply(params, X[order], T[order], LABEL[order], dropout_keys=keys[order]), dropped[order])
    assert np.abs(apply(params, X, T, LABEL, dropout_keys=keys[order]) - dropped).max() > 0.1 * np.abs(still).max()


def test_a_mask_keeps_the_mean_and_differs_by_site():
    x, keys = jnp.ones((2, 40, 40, 4)), jax.random.split(jax.random.key(0), 2)
    y = blocks.dropout(x, 0.25, keys, site=1)
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert np.abs(np.mean(y, axis=(1, 2, 3)) - 1).max() < 0.03  # 4 standard errors of 6400 draws
    assert 0.2 < np.mean(y[0] != y[1]) < 0.55
    assert 0.2 < np.mean(y != blocks.dropout(x, 0.25, keys, site=2)) < 0.55
    np.testing.assert_array_equal(blocks.dropout(x[1], 0.25, keys[1], site=1), y[1])
    np.testing.assert_array_equal(blocks.dropout(x[None], 0.25, keys[None], site=1), y[None])
    assert blocks.dropout(x, 0.25, None, site=1) is x


def test_the_sites_of_one_network_differ(conditional):
    """Same key, same shape: only the site tells the masks of two blocks apart."""
    sites = []
    original = blocks.dropout
    try:
        blocks.dropout = lambda x, rate, keys, site: sites.append(site) or original(x, rate, keys, site)
        module, params, _ = conditional
        jax.eval_shape(lambda: module.apply(params, X, T, LABEL, dropout_keys=jax.random.split(jax.random.key(0), 4)))
    finally:
        blocks.dropout = original
    assert len(sites) == len(set(sites)) == 10  # one in each ResBlock: 2 + 1 down, 2 middle, 4 + 1 up


# --- labels and outputs ----------------------------------------------------------------------------------------------


def test_no_label_is_the_null_label(conditional):
    _, params, apply = conditional
    unlabelled = apply(params, X, T)
    close(unlabelled, apply(params, X, T, jnp.full(4, 3)))
    assert np.abs(unlabelled - apply(params, X, T, LABEL)).max() > 1e-3
    assert params["params"]["label_emb"]["embedding"].shape[0] == 4


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs a label"):
        jax.eval_shape(unet(num_classes=3).init, jax.random.key(0), X, T)
    with pytest.raises(ValueError, match="takes no label"):
        jax.eval_shape(unet().init, jax.random.key(0), X, T, LABEL)


def test_a_new_network_returns_zero(fresh):
    module, params = fresh
    others = random_params(module, X, T, LABEL)["params"]
    output = jax.jit(module.apply)({"params": others | params["params"]}, X, T, LABEL)
    assert output.shape == (4, 8, 4, 2)
    np.testing.assert_array_equal(output, 0)


def test_initial_values_are_those_of_torch(fresh):
    params = fresh[1]["params"]
    for layer, fan_in in ((params["input_blocks_1_0"]["in_layers_2"], 72), (params["time_embed_2"], 32)):
        assert 0.95 < np.abs(layer["kernel"]).max() * np.sqrt(fan_in) <= 1
        assert 0.5 < np.abs(layer["bias"]).max() * np.sqrt(fan_in) <= 1
    assert abs(np.std(params["label_emb"]["embedding"]) - 1) < 0.05
    for block, layer in (("input_blocks_1_0", "out_layers_3"), ("middle_block_1", "proj_out")):
        assert not any(np.any(value) for value in params[block][layer].values())


def test_a_low_compute_dtype_leaves_the_output_float32(conditional):
    module, params, apply = conditional
    full, half = apply(params, X, T, LABEL), jax.jit(module.clone(dtype=jnp.bfloat16).apply)(params, X, T, LABEL)
    assert half.dtype == jnp.float32
    assert 1e-4 < np.abs(half - full).max() / np.sqrt(np.mean(full**2)) < 0.2


def test_the_plain_convolution_allows_forward_mode(conditional):
    module, params, _ = conditional

    def lower_tangent(module):
        jax.jit(lambda x: jax.jvp(lambda x: module.apply(params, x, T, LABEL), (x,), (x,))).lower(X)

    lower_tangent(module.clone(plain_convolution=True))
    with pytest.raises(TypeError, match="custom_vjp"):
        lower_tangent(module)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_gradients_of_parameters_are_those_of_the_plain_convolution(direction):
    x = jnp.concatenate([X, X**2], axis=-1)
    params = random_params(blocks.Resample(direction), x)

    def gradient(module):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), (0, 1)))(params, x)

    ours, theirs = (gradient(blocks.Resample(direction, plain_convolution=plain)) for plain in (False, True))
    jax.tree.map(close, ours, theirs)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, (8, 6), (0, 8)])
def test_a_size_that_cannot_be_halved_is_refused(size):
    with pytest.raises(ValueError, match=r"halved 2 times: .* multiples of 4, so pad it to"):
        check_image_size(size, (1, 2, 3))


def test_the_networks_check_the_size():
    check_image_size(8, (1, 2, 2, 4))
    with pytest.raises(ValueError, match=r"7x4 cannot be halved 1 times: .* pad it to 8x4"):
        jax.eval_shape(unet().init, jax.random.key(0), X[:, :7], T)


def test_the_attention_pool_is_made_for_one_size():
    params = random_params(classifier(), X, T)
    with pytest.raises(ValueError, match=r"made for 8 positions and the image leaves 16"):
        jax.eval_shape(functools.partial(classifier().apply, params, jnp.concatenate([X, X], axis=1), T))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 3}, "norm groups"),
        ({"num_head_channels": 5}, "heads of 5"),
        ({"num_heads": 3}, "attention heads"),
    ],
)
def test_widths_that_do_not_divide_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(unet(**options).init, jax.random.key(0), X, T)


def test_patches_are_squares_of_pixels_and_a_network_on_them_is_one_of_more_channels():
    picture = jnp.arange(16.0).reshape(4, 4, 1)
    np.testing.assert_array_equal(encoder.to_patches(picture, 2)[0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(encoder.from_patches(encoder.to_patches(X, 2), 2), X)
    narrow, small = unet(patch=2, channel_mult=(1,)), encoder.to_patches(X, 2)
    inner = unet(out_channels=4, channel_mult=(1,))
    judge, plain = classifier("adaptive", patch=2, channel_mult=(1,)), classifier("adaptive", channel_mult=(1,))
    for cut, whole, back in ((narrow, inner, lambda y: encoder.from_patches(y, 2)), (judge, plain, lambda y: y)):
        both = jax.jit(lambda p, cut=cut, whole=whole, back=back: (cut.apply(p, X, T), back(whole.apply(p, small, T))))
        np.testing.assert_array_equal(*both(random_params(cut, X, T)))
    with pytest.raises(ValueError, match=r"8x4 cannot be cut into squares of 3x3"):
        jax.eval_shape(unet(patch=3).init, jax.random.key(0), X, T)


# --- signals ---------------------------------------------------------------------------------------------------------

SIGNAL = jax.random.normal(jax.random.key(8), (4, 12, 1, 2))


def test_a_network_for_signals_is_one_for_pictures_of_width_1_without_the_kernels_sides():
    """3x1 kernels in the middle of 3x3 ones."""
    flat, wide = (unet(dims=dims, out_channels=2, channel_mult=(1,), attention_resolutions=()) for dims in (1, 2))
    params = random_params(flat, SIGNAL, T)
    widened = jax.tree.map(lambda a: jnp.pad(a, ((0, 0), (1, 1), (0, 0), (0, 0))) if a.ndim == 4 else a, params)
    assert params["params"]["input_blocks_0_0"]["kernel"].shape == (3, 1, 2, 8)
    close(jax.jit(flat.apply)(params, SIGNAL, T), jax.jit(wide.apply)(widened, SIGNAL, T))


@pytest.mark.parametrize("updown", [False, True])
def test_signals_are_halved_and_doubled_along_their_length(updown):
    x = jnp.arange(8.0).reshape(8, 1, 1)
    np.testing.assert_array_equal(blocks.downsample(x, 1).ravel(), [0.5, 2.5, 4.5, 6.5])
    np.testing.assert_array_equal(blocks.upsample(x[:2], 1).ravel(), [0, 0, 1, 1])
    np.testing.assert_array_equal(encoder.to_patches(x, 2, 1)[1, 0], [2, 3])
    np.testing.assert_array_equal(encoder.from_patches(encoder.to_patches(x, 2, 1), 2, 1), x)
    module, judge = (make(dims=1, channel_mult=(1, 2, 2), resblock_updown=updown) for make in (unet, classifier))
    for each, shape in ((module, (4, 12, 1, 1)), (judge, (4, 3))):
        params = jax.eval_shape(each.init, jax.random.key(0), SIGNAL, T)
        assert jax.eval_shape(each.apply, params, SIGNAL, T).shape == shape


def test_a_signal_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="a signal of 10 cannot be halved 2 times: lengths must be multiples of 4"):
        jax.eval_shape(unet(dims=1, channel_mult=(1, 1, 1)).init, jax.random.key(0), SIGNAL[:, :10], T)
    with pytest.raises(ValueError, match=r"dims is 1 and x ends in \(8, 4, 1\); give dims=2"):
        jax.eval_shape(unet(dims=1).init, jax.random.key(0), X, T)


def test_weight_gradients_of_signals_are_those_of_the_plain_convolution():
    x = jnp.concatenate([SIGNAL, SIGNAL**2], axis=-1)
    params = random_params(blocks.Resample("down", dims=1), x)

    def gradient(plain):
        module = blocks.Resample("down", plain_convolution=plain, dims=1)
        return jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), (0, 1)))(params, x)

    jax.tree.map(close, gradient(False), gradient(True))
