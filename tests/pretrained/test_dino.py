"""DINOv2 against transformers and torch (tests/golden/dino_reference.py), on weights that both sides draw."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import metrics
from guided_jax.metrics.dino import dino_features, features_name
from guided_jax.models.ops import bicubic
from guided_jax.pretrained import dino
from tests.golden import dino_reference as reference
from tests.golden.dino_reference import recorded_weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dino.npz", allow_pickle=False)
PUBLISHED = {  # parameters and tensors of transformers' networks, made without memory
    "S": ((384, 12, 6), 22_056_576, 223),
    "B": ((768, 12, 12), 86_580_480, 223),
    "L": ((1024, 24, 16), 304_368_640, 439),
}


def config(case):
    image_size, registers, _, _ = reference.CASES[case]
    return reference.SIZE | {"image_size": image_size, "num_register_tokens": registers, "model_type": "dinov2"}


def in_original_layout(state_dict):
    """The same weights under the keys of facebookresearch/dinov2, whose q, k and v are one matrix."""
    names = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.": "",
        "encoder.layer.": "blocks.",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    found = {}
    for key, array in state_dict.items():
        if ".attention.attention." in key:
            if ".query." in key:
                parts = [state_dict[key.replace("query", part)] for part in ("query", "key", "value")]
                new = key.replace("encoder.layer.", "blocks.").replace("attention.attention.query", "attn.qkv")
                found[new] = np.concatenate(parts)
            continue
        for own, other in names.items():
            key = key.replace(own, other)
        found[key] = array
    return found


def error(found, wanted):
    """Largest difference in units of the reference's rms."""
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.sqrt((wanted**2).mean())


@pytest.mark.parametrize("case", [case for case in reference.CASES if case != "metric"])
def test_features_and_gradients(case):
    """Pictures of the size of the table, of others, not square; registers; both ways to interpolate the table."""
    _, _, size, original = reference.CASES[case]
    module, params = dino.load(config(case), recorded_weights(case), like="original" if original else "transformers")
    x = reference.pictures(case, 2, *size, 3)
    cotangent = reference.pictures(f"{case} cotangent", 2, reference.SIZE["hidden_size"])

    @jax.jit
    def run(params, x, cotangent):
        if case not in reference.GRADIENTS:
            return module.apply(params, x), None
        found, pull = jax.vjp(lambda x: module.apply(params, x), x)
        return found, pull(found._replace(pooled=cotangent, patches=jnp.zeros_like(found.patches)))[0]

    found, gradient = run(params, x, cotangent)
    assert error(found.pooled, GOLDEN[f"{case}/pooled"]) < 2e-5
    assert error(found.patches, GOLDEN[f"{case}/patches"]) < 2e-5
    if case in reference.GRADIENTS:
        assert error(gradient, GOLDEN[f"{case}/gradient"]) < 1e-4


def test_the_libraries_interpolate_differently():
    """0.1 more patches: the numbers of one are not those of the other."""
    x = reference.pictures("original", 2, 42, 56, 3)
    module, params = dino.load(config("original"), recorded_weights("original"), like="transformers")
    assert error(jax.jit(module.apply)(params, x).pooled, GOLDEN["original/pooled"]) > 0.01


@pytest.mark.parametrize("case", ["original", "registers"])
def test_both_layouts_are_the_same_network(case):
    """And the original has no config: everything but the number of heads, 64 channels each, is in the shapes."""
    state_dict = recorded_weights(case)
    own = dino.load(config(case), state_dict)
    other = dino.load(config(case), in_original_layout(state_dict))
    assert own[0] == other[0]
    jax.tree.map(np.testing.assert_array_equal, own[1], other[1])
    for each in (state_dict, in_original_layout(state_dict)):
        inferred = dino.make_network(dino.infer_config(each))
        assert inferred.clone(num_heads=own[0].num_heads) == own[0]


def test_the_features_of_the_metric():
    """Bytes of any size to 224 x 224, as EDM2's evaluation does, with the original's network."""
    module, params = dino.load(config("metric"), recorded_weights("metric"))
    pictures = reference.pictures("metric bytes", *reference.METRIC_PICTURES)
    extract = metrics.extractor(dino_features(module, params), jax.devices()[:2], 2)
    found = next(extract([pictures]))
    assert (found.spatial, found.logits) == (None, None)
    assert error(found.pool, GOLDEN["metric/pooled"]) < 1e-4
    with pytest.raises(ValueError, match="1 or 3 channels, these have 4"):
        jax.eval_shape(dino_features(module, params), jax.ShapeDtypeStruct((8, 8, 4), jnp.uint8))


@pytest.mark.parametrize("case", reference.RESIZED)
def test_torchs_bicubic_interpolation(case):
    height, width, side = reference.RESIZED[case]
    x = reference.pictures(f"resized bytes {case}", 1, height, width, 3)
    found = bicubic.resize(x.astype(np.float32), (side, side), antialias=True)
    np.testing.assert_allclose(found, GOLDEN[f"resized/{case}"], atol=1e-3)


@pytest.mark.parametrize("antialias", [True, False])
def test_interpolation_keeps_constants_and_size(antialias):
    for size, number in ((5, 3), (3, 7), (40, 9)):
        np.testing.assert_allclose(bicubic.interpolation(size, number, antialias).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(bicubic.interpolation(6, 6, antialias), np.eye(6), atol=1e-7)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name):
    (width, depth, heads), parameters, tensors = PUBLISHED[name]
    module = dino.make_network(
        {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": 518}
    )
    leaves = jax.tree.leaves(dino.shapes(module))
    assert sum(leaf.size for leaf in leaves) == parameters - width  # less the mask token
    assert len(leaves) == tensors - 1 - 4 * depth  # q, k and v are one matrix and one bias
    assert features_name(module) == f"dinov2 ViT-{name}/14"


def test_every_wrong_key_is_named_in_one_error():
    state_dict = recorded_weights("own_size")
    del state_dict["encoder.layer.1.attention.attention.key.weight"], state_dict["layernorm.bias"]
    state_dict["encoder.layer.0.layer_scale1.lambda1"] = np.ones(3)
    state_dict["classifier.weight"] = np.ones(3)
    with pytest.raises(ValueError, match="do not fit") as info:
        dino.load(config("own_size"), state_dict)
    missing, surplus, misshapen = str(info.value).split(";")
    assert missing.endswith("missing encoder.layer.1.attention.attention.key.weight, layernorm.bias")
    assert surplus == " surplus classifier.weight"
    assert "encoder.layer.0.layer_scale1.lambda1 (torch shape (3,), here (48,))" in misshapen


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="they have no pos_embed, patch_embed"):
        dino.load(None, {"conv.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"{'use_swiglu_ffn': True} describes another network"):
        dino.make_network({"use_swiglu_ffn": True})
    with pytest.raises(ValueError, match="it is original or transformers"):
        dino.make_network({}, like="torch")


def test_half_precision():
    module, params = dino.load(config("own_size"), recorded_weights("own_size"), "transformers", jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    found = jax.jit(module.apply)(params, reference.pictures("own_size", 2, 70, 70, 3))
    assert found.pooled.dtype == jnp.float32
    assert 1e-5 < error(found.pooled, GOLDEN["own_size/pooled"]) < 0.1
