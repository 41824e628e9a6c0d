"""The torch reference's own numbers: its weights imported, its outputs and gradients met; its published sizes counted."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.pretrained import adm
from tests.latent_golden import cases

GOLDEN = Path(__file__).parents[1] / "golden"
UNETS = sorted(path.stem for path in GOLDEN.glob("unet_*.npz"))
ENCODERS = sorted(path.stem for path in GOLDEN.glob("encoder_*.npz"))


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def read(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    state_dict = {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")}
    return json.loads(str(arrays["meta"])), arrays, state_dict


def nhwc(array):
    return jnp.asarray(np.moveaxis(array, 1, -1))


def error(ours, reference):
    """Largest difference in units of the reference's rms; images come as NHWC and NCHW."""
    ours = np.moveaxis(ours, -1, 1) if ours.ndim == 4 else np.asarray(ours)
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.sqrt(np.mean(reference**2))


def test_the_golden_files_are_here():
    assert len(UNETS) == 5
    assert len(ENCODERS) == 4


# In the fast suite a network of classes, one of none and the upsampler, and both orders of the heads.
LONG = ("unet_halfmult_dropout", "unet_mult123_noconvresample")
RECORDED = [
    pytest.param(*case, marks=pytest.mark.slow) if case[0] in LONG and not case[1] else case
    for case in cases(UNETS, ["unet_classcond_updown_neworder"])
]


@pytest.mark.parametrize(("name", "gradients"), RECORDED)
def test_unet(name, gradients):
    meta, arrays, state_dict = read(name)
    module, params = adm.load_unet(meta["config"], state_dict)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == meta["params"]
    label = jnp.asarray(arrays["y"], int) if "y" in arrays else None
    low_res = nhwc(arrays["low_res"]) if "low_res" in arrays else None

    @jax.jit
    def output_and_vjp(x, t, w):
        network = lambda x: module.apply(params, x, t, label, low_res)  # noqa: E731
        if not gradients:
            return network(x), None
        output, pull = jax.vjp(network, x)
        return output, pull(w)[0]

    x, w = nhwc(arrays["x"]), nhwc(arrays["vjp_w"])
    for call in meta["calls"]:
        output, gradient = output_and_vjp(x, jnp.asarray(arrays[call["t"]]), w)
        assert error(output, arrays[call["out"]]) < 1e-4
        if gradients and call["t"] == "t0":
            assert error(gradient, arrays["vjp_x"]) < 5e-4


@pytest.mark.parametrize(("name", "gradients"), cases(ENCODERS, ["encoder_attention"]))
def test_classifier(name, gradients):
    meta, arrays, state_dict = read(name)
    module, params = adm.load_classifier(meta["config"], state_dict)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == meta["params"]
    label = jnp.asarray(arrays["y"], int)

    @jax.jit
    def logits_and_gradient(x, t):
        def log_prob(x):
            logits = module.apply(params, x, t)
            return jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)), logits

        if not gradients:
            return log_prob(x)[1], None
        gradient, logits = jax.grad(log_prob, has_aux=True)(x)
        return logits, gradient

    logits, gradient = logits_and_gradient(nhwc(arrays["x"]), jnp.asarray(arrays["t"]))
    assert error(logits, arrays["logits"]) < 3e-5
    assert not gradients or error(gradient, arrays["grad"]) < 3e-4


def test_half_precision():
    meta, arrays, state_dict = read("unet_classcond_updown_neworder")
    module, params = adm.load_unet(meta["config"] | {"use_fp16": True}, state_dict)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    output = jax.jit(module.apply)(params, nhwc(arrays["x"]), jnp.asarray(arrays["t0"]), jnp.asarray(arrays["y"], int))
    assert output.dtype == jnp.float32
    assert 1e-5 < error(output, arrays["out0"]) < 3e-2
    assert error(output, arrays["out0_fp16"]) < 3e-2


def test_every_wrong_key_is_named_in_one_error():
    meta, _, state_dict = read("encoder_attention")
    state_dict["out.2.c_proj.weight"] = state_dict["out.2.c_proj.weight"][:-1]
    state_dict["time_embed.0.bias"] = state_dict["time_embed.0.bias"][None]
    del state_dict["middle_block.1.norm.weight"], state_dict["input_blocks.0.0.bias"]
    state_dict["label_emb.weight"] = np.zeros((10, 128))
    with pytest.raises(ValueError, match="do not fit") as info:
        adm.load_classifier(meta["config"], state_dict)
    message = str(info.value)
    missing, surplus, misshapen = message.split(";")
    assert "missing input_blocks.0.0.bias, middle_block.1.norm.weight" in missing
    assert "surplus label_emb.weight" in surplus
    assert "out.2.c_proj.weight (torch shape (9, 64, 1)" in misshapen
    assert "time_embed.0.bias" in misshapen


def test_a_square_matrix_is_still_transposed():
    """Shapes alone would not notice: the embedding's second layer is square."""
    meta, _, state_dict = read("encoder_adaptive")
    _, params = adm.load_classifier(meta["config"], state_dict)
    kernel = params["params"]["time_embed_2"]["kernel"]
    np.testing.assert_array_equal(kernel, state_dict["time_embed.2.weight"].T)
    assert not np.array_equal(kernel, state_dict["time_embed.2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 3}, "does not know: width"), ({"dims": 3}, "dims"), ({"image_size": ...}, "lacks image_size")],
)
def test_a_wrong_configuration_is_refused(change, message):
    meta, _, state_dict = read("encoder_adaptive")
    config = {name: value for name, value in (meta["config"] | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        adm.load_classifier(config, state_dict)


def test_super_resolution_needs_the_low_resolution_image():
    meta, arrays, state_dict = read("unet_superres")
    module, params = adm.load_unet(meta["config"], state_dict)
    with pytest.raises(ValueError, match=r"takes 6 channels and was given 3 \(without low_res\)"):
        module.apply(params, nhwc(arrays["x"]), 3.0, 1)


# --- the published checkpoints: parameters and tensors of SPEC 15.2 and 15.3, counted from their flags ---------------

PARAMETERS = {
    "64x64_diffusion": (295_904_454, 541),
    "128x128_diffusion": (421_529_606, 493),
    "256x256_diffusion": (553_838_086, 567),
    "256x256_diffusion_uncond": (552_814_086, 566),
    "512x512_diffusion": (558_997_638, 645),
    "lsun_bedroom": (552_814_086, 566),
    "lsun_cat": (552_814_086, 566),
    "lsun_horse": (552_814_086, 566),
    "lsun_horse_nodropout": (552_814_086, 566),
    "64_256_upsampler": (311_795_910, 567),
    "128_512_upsampler": (308_835_270, 537),
    "64x64_classifier": (65_438_568, 307),
    "128x128_classifier": (42_568_040, 221),
    "256x256_classifier": (54_096_360, 249),
    "512x512_classifier": (54_448_360, 281),
}


def count(shapes):
    leaves = jax.tree.leaves(shapes)
    return sum(int(np.prod(leaf.shape)) for leaf in leaves), len(leaves)


def test_every_published_model_is_counted():
    assert {*adm.MODELS, *adm.CLASSIFIERS} == set(PARAMETERS)


@functools.cache
def count_unet(config, upsampler):
    """Count a network by its arguments as JSON: five of the published ones are the same."""
    config = json.loads(config)
    return count(adm.unet_shapes(adm.unet(config), config, upsampler))


# In the fast suite one of classes and an upsampler.
FAST = ("64x64_diffusion", "64_256_upsampler")


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in adm.MODELS if name not in FAST)]
)
def test_published_unets(name):
    config, low_res = adm.MODELS[name].config, adm.MODELS[name].low_res
    assert count_unet(json.dumps(config, sort_keys=True), low_res is not None) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name", [n if n.startswith("64") else pytest.param(n, marks=pytest.mark.slow) for n in adm.CLASSIFIERS]
)
def test_published_classifiers(name):
    config = adm.CLASSIFIERS[name].config
    assert count(adm.classifier_shapes(adm.classifier(config), config)) == PARAMETERS[name]


# --- files of weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    return read("encoder_adaptive")[2]


@pytest.mark.parametrize("kind", [".npz", ".safetensors", ".pt"])
def test_a_file_of_weights_is_read_tensor_by_tensor(kind, weights, tmp_path):
    path = tmp_path / f"weights{kind}"
    write(path, weights)
    found = adm.read_state_dict(path)
    assert sorted(found) == sorted(weights)
    for name, array in found.items():
        np.testing.assert_array_equal(array, weights[name])
    assert "nothing of the kind" not in found


def write(path, weights):
    if path.suffix == ".npz":
        np.savez(path, **weights)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(weights, path)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)


@pytest.mark.parametrize("kind", [".npz", ".safetensors", ".pt"])
def test_a_file_of_something_else_is_refused(kind, tmp_path):
    if kind == ".pt":
        pytest.importorskip("torch")
    path = tmp_path / f"weights{kind}"
    path.write_bytes(b"not weights at all" * 20)
    with pytest.raises(ValueError, match=r"is not a|no npz file of arrays"):
        adm.read_state_dict(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        adm.read_state_dict(tmp_path / f"missing{kind}")
    with pytest.raises(ValueError, match="none of"):
        adm.read_state_dict(tmp_path / "weights.onnx")


class Hostile:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("weights.npz", allow_pickle=True, harmless=np.ones(2), hostile=np.array([Hostile()], object))
    with pytest.raises(ValueError, match="no npz file of arrays"):
        dict(adm.read_state_dict("weights.npz"))
    torch = pytest.importorskip("torch")
    torch.save({"weight": Hostile()}, "weights.pt")
    with pytest.raises(ValueError, match="tensors alone"):
        adm.read_state_dict("weights.pt")
    assert not (tmp_path / "executed").exists()
