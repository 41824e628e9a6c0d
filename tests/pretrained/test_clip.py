"""The references' own numbers of CLIP, by every layout of its weights; the published towers by their keys."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from guided_jax import pretrained
from guided_jax.models.clip import preprocess, preprocess_uint8, similarity
from guided_jax.models.clip.pixels import MEAN, STD
from guided_jax.pretrained import readers
from guided_jax.pretrained.clip.keys import key_function
from guided_jax.pretrained.state_dict import from_torch
from tests import latent_golden as golden
from tests.golden import text_reference

TEXTS = ("clip_text_sd1", "clip_text_sd1_legacy_eos", "clip_text_sdxl_2")


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def ids_of(arrays, name="input_ids"):
    return jnp.asarray(arrays[name], int)


def full_config(meta):
    return {name: meta[name] for name in ("text_config", "vision_config", "projection_dim")}


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


# --- the numbers of transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_text(name):
    meta, arrays, groups = golden.read(name)
    module, params = pretrained.clip.load_text(meta["config"], groups["sd"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == meta["params"]

    @jax.jit
    def run(params, ids, mask, w):
        pull = jax.vjp(lambda params: module.apply(params, ids).last, params)[1]
        states = module.apply(params, ids, method="hidden_states")
        normed = module.apply(params, states[-2], method="normalize")
        masked = module.apply(params, ids, mask).last
        return module.apply(params, ids), states, normed, masked, pull(w)[0]

    ids = ids_of(arrays)
    mask = arrays.get("attention_mask", jnp.ones(ids.shape))
    features, states, normed, masked, gradient = run(params, ids, mask, jnp.asarray(arrays["vjp_w"]))
    found = {
        "last_hidden_state": features.last,
        "penultimate": features.penultimate,
        "layer0": states[1],
        "embeddings": states[0],
        "penultimate_normed": normed,
        "pooler_output": features.pooled,
        "text_embeds": features.projected,
    }
    assert (features.projected is None) == ("text_embeds" not in arrays)
    for key in found.keys() & arrays.keys():
        assert np.abs(found[key] - arrays[key]).max() < 5e-5 * meta["rms"][key], key
    of_table = gradient["params"]["token_embedding"]["embedding"]
    assert golden.error(of_table, arrays["vjp_token_embedding"]) < 3e-4
    if name == "clip_text_sd1":
        kept = arrays["attention_mask"] == 1
        assert np.abs(masked - arrays["masked_last_hidden_state"])[kept].max() < 5e-5
        assert np.abs(masked - features.last)[~kept].max() > 0.01
    else:
        np.testing.assert_allclose(masked, features.last, atol=1e-5)


def test_pictures_and_texts():
    """Values of both towers, their cosines and the gradient with respect to the pictures."""
    meta, arrays, groups = golden.read("clip_full_vit")
    module, params = pretrained.clip.load(full_config(meta), groups["sd"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == meta["params"]

    @jax.jit
    def run(params, pixels, ids):
        text = module.apply(params, ids, method="encode_text")

        def agreement(pixels):
            image = module.apply(params, pixels, method="encode_image")
            return similarity(image.projected, text.projected).sum(), image

        (_, image), gradient = jax.value_and_grad(agreement, has_aux=True)(pixels)
        cosines = similarity(image.projected[:, None], text.projected[None])
        states = module.apply(params, pixels, method=lambda clip, pixels: clip.vision.hidden_states(pixels))
        return image, states, text, cosines, module.apply(params, pixels, ids), gradient

    pixels = golden.nhwc(arrays["pixel_values"])
    image, states, text, cosines, logits, gradient = run(params, pixels, ids_of(arrays))
    unit = partial(jax.tree.map, lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True))
    found = {
        "vision_last_hidden_state": image.tokens,
        "vision_penultimate": states[-2],
        "vision_pooled": image.pooled,
        "image_features": image.projected,
        "image_embeds": unit(image.projected),
        "text_pooled": text.pooled,
        "text_features": text.projected,
        "text_embeds": unit(text.projected),
        "cosine": cosines,
    }
    for key, ours in found.items():
        assert np.abs(ours - arrays[key]).max() < 5e-5 * meta["rms"][key], key
    assert np.abs(logits - np.diag(arrays["logits_per_image"])).max() < 5e-5 * meta["rms"]["logits_per_image"]
    assert golden.error(gradient, arrays["grad_image"]) < 3e-4


def test_a_tower_of_a_whole_clip():
    """Either tower alone, from the file of both, is that of both; so it is without its prefix, and under another."""
    meta, _, groups = golden.read("clip_full_vit")
    config, weights = full_config(meta), groups["sd"]
    whole, params = pretrained.clip.load(config, weights)
    text, of_text = pretrained.clip.load_text(config, weights)
    vision, of_vision = pretrained.clip.load_vision(config, weights)
    assert (text, vision) == (whole.text, whole.vision)
    assert same(of_text["params"], params["params"]["text"])
    assert same(of_vision["params"], params["params"]["vision"])
    for load, own, prefix in (
        (pretrained.clip.load_text, of_text, "text_model."),
        (pretrained.clip.load_vision, of_vision, "vision_model."),
    ):
        bare = {
            key.removeprefix(prefix): array for key, array in weights.items() if key.startswith((prefix, prefix[:3]))
        }
        bare["embeddings.position_ids"] = np.arange(77)[None]
        module, found = load(config, bare)
        assert same(found, own)
        nested = {f"a.b.{key}": array for key, array in bare.items()} | {"model_ema.decay": np.zeros(())}
        assert same(load(config, nested, prefix="a.b.")[1], own)
        del bare["text_projection.weight" if prefix == "text_model." else "visual_projection.weight"]
        module, found = load(config, bare)
        assert module.projection_width is None
        assert "projection" not in found["params"]


# --- OpenCLIP ---------------------------------------------------------------------------------------------------------


def open_clip():
    meta, arrays, _ = golden.read("text_open_clip")
    return meta["config"], text_reference.weights(meta["shapes"]), arrays


def test_the_numbers_of_open_clip():
    config, weights, arrays = open_clip()
    module, params = pretrained.clip.load({"model_cfg": config}, weights)
    pixels, ids = golden.nhwc(arrays["pixels"]), ids_of(arrays, "ids")

    @jax.jit
    def run(params, pixels, ids):
        image = module.apply(params, pixels, method="encode_image").projected
        text = module.apply(params, ids, method="encode_text").projected
        return image, text, module.apply(params, pixels, ids)

    image, text, logits = run(params, pixels, ids)
    assert golden.error(image, arrays["image"]) < 5e-5
    assert golden.error(text, arrays["text"]) < 5e-5
    assert np.abs(logits - np.diag(arrays["logits"])).max() < 5e-5


def test_a_tower_of_open_clips_file():
    """With the buffers of OpenAI's own files; a configuration of transformers describes the same tower."""
    config, weights, _ = open_clip()
    params = pretrained.clip.load(config, weights)[1]["params"]
    weights |= {"attn_mask": np.zeros((12, 12)), "context_length": np.array(12), "input_resolution": np.array(24)}
    text, of_text = pretrained.clip.load_text(config, weights)
    assert same(of_text["params"], params["text"])
    assert same(pretrained.clip.load_vision(config, weights)[1]["params"], params["vision"])
    own = {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "vocab_size": 60,
    }
    own |= {"max_position_embeddings": 12, "hidden_act": "gelu", "projection_dim": 20, "eos_token_id": 2}
    assert pretrained.clip.load_text(own, weights)[0] == text
    quick = pretrained.clip.make_text(config | {"quick_gelu": True})
    assert (quick.activation, text.activation) == ("quick_gelu", "gelu")


# --- mistakes in the weights and the configuration -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["transformers", "bare", "open_clip"])
def test_every_wrong_key_is_named_as_in_the_file(layout):
    if layout == "open_clip":
        config, weights, _ = open_clip()
        missing, misshapen = "transformer.resblocks.1.attn.in_proj_bias", "text_projection"
    else:
        meta, _, groups = golden.read("clip_text_sd1")
        config, prefix = meta["config"], "" if layout == "bare" else "text_model."
        weights = {prefix + key.removeprefix("text_model."): array for key, array in groups["sd"].items()}
        missing, misshapen = (
            f"{prefix}encoder.layers.1.self_attn.k_proj.bias",
            f"{prefix}encoder.layers.0.mlp.fc1.weight",
        )
    del weights[missing]
    weights[misshapen] = weights[misshapen][:-1]
    weights["encoder.x"] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit") as info:
        pretrained.clip.load_text(config, weights)
    first, second, third = str(info.value).split("; ")
    assert first.endswith(f"missing {missing}")
    assert second == "surplus encoder.x"
    assert third.startswith(f"misshapen {misshapen} (torch shape")
    assert third.count("torch shape") == 1


def test_a_class_with_a_projection_lacks_it():
    meta, _, groups = golden.read("clip_text_sd1")
    with pytest.raises(ValueError, match=r"missing text_projection.weight\.$"):
        pretrained.clip.load_text(meta["config"] | {"architectures": ["CLIPTextModelWithProjection"]}, groups["sd"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "swish"}, "hidden_act of the configuration is 'swish'; it has to be one of quick_gelu, gelu"),
        ({"num_attention_heads": 5}, "a hidden_size of 512 cannot be split into 5 attention heads"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers of the configuration is 1.5; it has to be a positive whole"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
        ({"eos_token_id": None}, "eos_token_id of the configuration is None"),
        ({"model_type": "siglip_text_model"}, "is of a siglip_text_model; only CLIP"),
        ({"embed_dim": 8, "text_cfg": {"hf_model_name": "roberta-base"}}, "hf_model_name 'roberta-base'"),
        ({"text_cfg": {}}, "projection_dim of the configuration is None"),
    ],
)
def test_a_configuration_of_no_text_tower_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        pretrained.clip.make_text(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 30}, "an image_size of 224 cannot be cut into patches of 30"),
        ({"embed_dim": 8, "vision_cfg": {"layers": [3, 4, 6, 3]}}, "which is a ResNet"),
        ({"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit"}}, "timm_model_name 'vit'"),
    ],
)
def test_a_configuration_of_no_vision_tower_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        pretrained.clip.make_vision(change)


def test_inputs_that_do_not_fit_are_refused():
    text = pretrained.clip.make_text(
        {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 9, "num_hidden_layers": 1}
    )
    vision = pretrained.clip.make_vision(
        {"hidden_size": 16, "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "num_hidden_layers": 1}
    )
    shapes, ids = pretrained.clip.shapes, jnp.array([0, 9])
    with pytest.raises(ValueError, match="reads 77 tokens at most, and was given 80"):
        jax.eval_shape(text.apply, shapes(text), jnp.zeros(80, int))
    with pytest.raises(ValueError, match="id 9 is out of range; it has to be between 0 and 8"):
        jax.eval_shape(lambda params: text.apply(params, ids), shapes(text))
    with pytest.raises(ValueError, match=re.escape("the mask has shape (2,) and the ids (3,)")):
        jax.eval_shape(text.apply, shapes(text), jnp.zeros(3, int), jnp.zeros(2))
    with pytest.raises(ValueError, match=re.escape("takes pictures of shape (32, 32, 3) and was given (32, 30, 3)")):
        jax.eval_shape(vision.apply, shapes(vision), jnp.zeros((32, 30, 3)))


# --- batch axes, given vectors, half precision -----------------------------------------------------------------------


@pytest.mark.slow
def test_any_batch_axes_and_vectors_in_place_of_ids():
    meta, arrays, groups = golden.read("clip_text_sdxl_2")
    module, params = pretrained.clip.load_text(meta["config"], groups["sd"])
    ids = ids_of(arrays)
    vectors = module.apply(params, ids, method="embed")
    assert vectors.shape == (*ids.shape, 48)
    apply = jax.jit(module.apply)
    for axes in (ids[0], ids[:, None]):
        features = apply(params, axes)
        assert features.last.shape == (*axes.shape, 48)
        assert features.projected.shape == (*axes.shape[:-1], 40)
        assert golden.error(features.projected.reshape(-1, 40)[0], arrays["text_embeds"][0]) < 5e-5
    given = apply(params, ids, vectors=2 * vectors)
    double = jax.tree.map(lambda leaf: leaf, params)
    double["params"]["token_embedding"] = {"embedding": 2 * params["params"]["token_embedding"]["embedding"]}
    np.testing.assert_allclose(given.projected, apply(double, ids).projected, rtol=1e-5, atol=1e-5)


def test_half_precision():
    meta, arrays, groups = golden.read("clip_full_vit")
    module, params = pretrained.clip.load(full_config(meta), groups["sd"], jnp.bfloat16)
    tree = params["params"]["text"]
    assert tree["layers_0"]["attention"]["qkv"]["kernel"].dtype == jnp.bfloat16
    exact = (tree["token_embedding"], tree["final_norm"], tree["projection"], tree["layers_1"]["norm_2"])
    assert {leaf.dtype for leaf in jax.tree.leaves(exact)} == {jnp.dtype("float32")}
    image = jax.jit(module.apply, static_argnames="method")(
        params, golden.nhwc(arrays["pixel_values"]), method="encode_image"
    )
    assert (image.tokens.dtype, image.projected.dtype) == (jnp.bfloat16, jnp.float32)
    assert 1e-4 < golden.error(image.projected, arrays["image_features"]) < 0.1


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 61), (12, 9)])
def test_preprocess_resizes_as_pillow_does(shape):
    picture = np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)
    size = 16
    high, wide = (int(size * side / min(shape)) for side in shape)
    resized = np.stack(
        [np.asarray(Image.fromarray(picture[..., i]).resize((wide, high), Image.Resampling.BICUBIC)) for i in range(3)],
        -1,
    )
    top, left = (high - size) // 2, (wide - size) // 2
    expected = ((resized[top : top + size, left : left + size] + 1) / 2 - MEAN) / STD
    np.testing.assert_allclose(preprocess(jnp.asarray(picture), size), expected, atol=2e-5)


def test_preprocess_is_differentiable_and_takes_any_batch():
    pictures = jnp.zeros((2, 3, 8, 8, 3))
    gradient = jax.grad(lambda x: preprocess(x, 4).sum())(pictures)
    np.testing.assert_allclose(gradient.sum((-2, -3)), np.broadcast_to(16 / 2 / np.array(STD), (2, 3, 3)), rtol=1e-5)


# --- published towers -------------------------------------------------------------------------------------------------


def torch_shapes(shapes, keys, key_of):
    """Return {torch key: (its shape in our layout, the shape of our leaf over the number of its tensors)}."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(shapes["params"]):
        names = key_of([each.key for each in path])
        names = (names,) if isinstance(names, str) else names
        own = (*leaf.shape[:-1], leaf.shape[-1] // len(names)) if leaf.shape else ()
        for name in names:
            zeros = np.broadcast_to(0, keys.get(name, ()))  # which take no memory
            found[name] = (from_torch(zeros, leaf.ndim) if path[-1].key == "kernel" else zeros).shape, own
    return found


PUBLISHED = [("clip_vit_b32", "clip"), ("clip_vit_l14", "clip")]
PUBLISHED += [("text_encoders", name) for name in golden.published("text_encoders")]


@pytest.mark.parametrize(("name", "component"), PUBLISHED)
def test_published_sizes(name, component):
    """Every key and shape of the list, and no other."""
    recorded = golden.published(name)[component]
    keys = dict(recorded["keys"])
    if "text_config" in recorded:
        module, tower = pretrained.clip.make_clip(full_config(recorded)), None
    else:
        projection = "WithProjection" in recorded["cls"]
        module, tower = pretrained.clip.make_text(recorded["config"], projection=projection), "text"
    shapes = pretrained.clip.shapes(module)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == recorded["parameters"]
    found = torch_shapes(shapes, keys, key_function(list(keys), "", tower))
    assert found.keys() == keys.keys()
    assert all(theirs == ours for theirs, ours in found.values())


# --- the tiny checkpoints --------------------------------------------------------------------------------------------


def encoder(checkpoint, part="text_encoder"):
    folder = golden.FOLDER / "checkpoints" / checkpoint / part
    config = json.loads((folder / "config.json").read_text())
    return pretrained.clip.load_text(config, readers.read_state_dict(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("recorded", "checkpoint", "skip"),
    [
        ("pipeline_sd1_ddim_eta_clipskip", "sd1", 1),
        ("pipeline_sd2_v", "sd2_v", 0),
        ("pipeline_inpaint9", "inpaint", 0),
    ],
)
def test_the_embeddings_of_the_pipelines(recorded, checkpoint, skip):
    """Clip skip counts layers back from the last one, for the prompt alone; all states pass the final norm."""
    _, arrays, _ = golden.read(recorded)
    module, params = encoder(checkpoint)
    run = jax.jit(partial(module.apply, method="hidden_states"))
    for name, ids, back in (("prompt_embeds", "input_ids", skip), ("negative_prompt_embeds", "negative_input_ids", 0)):
        states = run(params, ids_of(arrays, ids))
        found = module.apply(params, states[-(back + 1)], method="normalize")
        assert golden.error(found, arrays[name]) < 5e-5


def test_the_embeddings_of_the_pipeline_with_two_encoders():
    _, arrays, _ = golden.read("pipeline_sdxl")
    (one, of_one), (two, of_two) = encoder("sdxl"), encoder("sdxl", "text_encoder_2")
    run_one, run_two = jax.jit(one.apply), jax.jit(two.apply)
    for kind in ("", "negative_"):
        first = run_one(of_one, ids_of(arrays, f"{kind}input_ids"))
        second = run_two(of_two, ids_of(arrays, f"{kind}input_ids_2"))
        both = jnp.concatenate([first.penultimate, second.penultimate], axis=-1)
        assert golden.error(both, arrays[f"{kind}prompt_embeds"]) < 5e-5
        assert golden.error(second.projected, arrays[f"{kind}pooled_prompt_embeds"]) < 5e-5


@pytest.mark.parametrize("shape", [(40, 61), (12, 9), (8, 8)])
def test_pictures_of_bytes_are_rounded_as_pillow_rounds_them(shape):
    """Noise of only black and white, which overshoots: without the clip the difference is large."""
    pictures = np.random.default_rng(0).choice(np.uint8([0, 255]), (8, *shape, 3))  # for one the share below is chance
    size = 16
    high, wide = (int(size * side / min(shape)) for side in shape)
    resized = np.array(
        [Image.fromarray(picture).resize((wide, high), Image.Resampling.BICUBIC) for picture in pictures], int
    )
    top, left = (high - size) // 2, (wide - size) // 2
    expected = resized[:, top : top + size, left : left + size]
    found = np.asarray(jax.vmap(lambda picture: preprocess_uint8(picture, size))(jnp.asarray(pictures))) * STD + MEAN
    np.testing.assert_allclose(255 * found, np.round(255 * found), atol=1e-3)
    assert np.abs(255 * found - expected).max() < 1.01
    assert np.mean(np.abs(255 * found - expected) > 0.5) < 0.005
    unclipped = np.asarray(preprocess(jnp.asarray(pictures[0]) / 127.5 - 1, size)) * STD + MEAN
    assert np.abs(255 * unclipped - expected[0]).max() > 10
