"""Whole CLIPs by their folders: the numbers of transformers through the loader, and folders of something else."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import criteria, pretrained, schedule
from guided_jax.models.clip import similarity
from guided_jax.models.clip.pixels import MEAN, STD
from guided_jax.pretrained import clip, readers
from tests import latent_golden as golden
from tests import tiny_clip
from tests.golden import text_reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip.own(tmp_path_factory.mktemp("clip") / "own")


def test_the_numbers_of_transformers_by_a_folder(folder):
    meta, arrays, _ = golden.read("clip_full_vit")
    found = clip.load_folder(folder)

    @jax.jit
    def run(params, pixels, ids):
        image = found.module.apply(params, pixels, method="encode_image").projected
        text = found.module.apply(params, ids, method="encode_text").projected
        unit = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text)]
        return *unit, jnp.exp(params["params"]["logit_scale"]) * similarity(image[:, None], text[None])

    with jax.default_matmul_precision("highest"):
        computed = run(found.params, golden.nhwc(arrays["pixel_values"]), jnp.asarray(arrays["input_ids"], int))
    for key, ours in zip(("image_embeds", "text_embeds", "logits_per_image"), computed, strict=True):
        assert np.abs(ours - arrays[key]).max() < 5e-5 * meta["rms"][key], key
    assert (found.mean, found.std) == (MEAN, STD)
    ids = found.tokenize("ab c")
    assert ids.shape == (77,)
    assert list(ids[:5]) == [88, 0, 45, 46, 89]


def test_pictures_of_minus_1_to_1_are_normalized_as_the_clip_wants_them(folder):
    """Whole, grey, and as crops that guide: what a criterion of a clean CLIP is made of."""
    found = clip.load_folder(folder)._replace(mean=(0.4, 0.5, 0.1), std=(0.2, 0.3, 0.5))
    size = found.module.vision.image_size
    unit = np.random.default_rng(0).uniform(size=(size, size, 3)).astype(np.float32)  # in [0, 1]

    @jax.jit
    def run(params, unit, text):
        own = found._replace(params=params)
        embed = lambda picture, level: clip.embed_image(own, picture)  # noqa: E731
        criterion = criteria.over_cutouts(criteria.spherical(embed, text), jax.random.key(0), 2, size)
        level = schedule.at(schedule.cosine(10), 5)
        gradient = jax.grad(criterion)(2 * unit - 1, level)
        pixels = (unit - jnp.asarray(found.mean).reshape(1, 1, 3)) / jnp.asarray(found.std).reshape(1, 1, 3)
        want = found.module.apply(params, pixels, method="encode_image").projected
        grey = clip.embed_image(own, 2 * unit[..., :1] - 1), clip.embed_image(own, jnp.tile(2 * unit[..., :1] - 1, 3))
        return clip.embed_image(own, 2 * unit - 1), want, grey, gradient

    texts = clip.embed_text(found, ["ab c", "d"])
    ids = jnp.asarray(found.tokenize("d"))
    one = jax.jit(lambda ids: found.module.apply(found.params, ids, method="encode_text").projected)(ids)
    np.testing.assert_allclose(texts[1], one, rtol=1e-4, atol=1e-5)
    embedding, want, grey, gradient = run(found.params, unit, texts[0])
    np.testing.assert_allclose(embedding, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(*grey, rtol=1e-5)
    assert gradient.shape == unit.shape
    assert jnp.abs(gradient).max() > 1e-5


def test_a_folder_of_open_clip(tmp_path):
    """With its own normalization, and texts as long as its tower reads."""
    place = tiny_clip.of_open_clip(tmp_path / "open")
    found = clip.load_folder(place)
    assert (found.mean, found.std, found.tokenize("a").shape) == ((0.5,) * 3, (0.5,) * 3, (12,))
    meta = golden.read("text_open_clip")[0]
    whole = pretrained.clip.load(meta["config"], text_reference.weights(meta["shapes"]))
    assert found.module == whole[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, whole[1]))


def test_the_normalization_of_a_folder(tmp_path):
    place = tiny_clip.own(tmp_path / "own")
    (place / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "resample": 3}))
    assert clip.load_folder(place).mean == (0.1, 0.2, 0.3)
    (place / "preprocessor_config.json").write_text(json.dumps({"resample": 2}))
    with pytest.raises(ValueError, match=r"resample of the pictures of .* is 2; only 3"):
        clip.load_folder(place)
    (place / "preprocessor_config.json").write_text(json.dumps({"image_std": [1, 1, 0]}))
    with pytest.raises(ValueError, match="std above 0"):
        clip.load_folder(place)


def test_folders_of_something_else(tmp_path, folder):
    with pytest.raises(ValueError, match="is no CLIP of both towers"):
        clip.load_folder(tiny_clip.SD1 / "text_encoder")
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere"):
        clip.load_folder("nowhere")
    place = tiny_clip.of_open_clip(tmp_path / "open")
    (place / "vocab.json").write_bytes((tiny_clip.SD1 / "tokenizer" / "vocab.json").read_bytes())
    (place / "merges.txt").write_bytes((tiny_clip.SD1 / "tokenizer" / "merges.txt").read_bytes())
    with pytest.raises(ValueError, match="has 1024 tokens and the text tower 60; take both from one CLIP"):
        clip.load_folder(place)
    (place / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights, such as open_clip_model"):
        clip.load_folder(place)
    bare = tiny_clip.own(tmp_path / "bare")
    (bare / "vocab.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        clip.load_folder(bare)


def test_a_tower_is_the_same_in_another_precision_and_without_its_projection(tmp_path):
    whole = clip.load_folder(tiny_clip.of_sd1(tmp_path / "sd1")).params["params"]["text"]
    config, weights = readers.read_component(tiny_clip.SD1 / "text_encoder")
    text = clip.load_text(config, weights, jnp.bfloat16)[1]
    assert "projection" not in text["params"]
    assert clip.same_weights({"params": whole}, text)
    assert clip.same_weights(text, {"params": whole})
    other = clip.load_folder(tiny_clip.own(tmp_path / "own")).params["params"]["text"]
    assert not clip.same_weights({"params": whole}, {"params": other})
    changed = jax.tree.map(lambda leaf: 1.02 * np.asarray(leaf), whole)
    assert not clip.same_weights({"params": whole}, {"params": changed})
    one = {**whole, "final_norm": changed["final_norm"]}
    assert not clip.same_weights({"params": whole}, {"params": one})
    short = {name: part for name, part in whole.items() if name != "layers_1"}
    assert clip.same_weights({"params": short}, text)
    assert not clip.same_weights({"params": {**short, "layers_2": whole["layers_1"]}}, text)
