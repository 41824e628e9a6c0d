"""CLIP's tokens: the golden strings of transformers, of the whole vocabulary and of the tiny checkpoints'; weights."""

import gzip
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import pretrained
from guided_jax.pretrained.clip import parse_weights, weigh
from tests import latent_golden as golden

TINY = golden.FOLDER / "checkpoints"
RECORDED = golden.FOLDER / "clip_vocab"
STRINGS = json.loads((RECORDED / "strings.json").read_text())
START, END = 49406, 49407
WORDS = [["a", "castle", "on", "the", "hill"][i * i % 7 % 5] for i in range(300)]  # of one token each
LONG, REST = " ".join(WORDS), " ".join(WORDS[75:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The whole vocabulary, of which the merges are stored: bytes, bytes that end a word, merges, two special tokens."""
    made = tmp_path_factory.mktemp("tokenizer")
    merges = gzip.decompress((RECORDED / "merges.txt.gz").read_bytes()).decode()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    joined = [line.replace(" ", "") for line in merges.splitlines()[1:]]
    tokens = [*stand_ins, *(sign + "</w>" for sign in stand_ins), *joined, "<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == END + 1
    (made / "merges.txt").write_text(merges)
    (made / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    return made


@pytest.fixture(scope="module")
def tokenize(folder):
    return pretrained.clip.tokenizer(folder)


# --- the strings of the reference ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_golden_strings(tokenize):
    cases = STRINGS["cases"]
    found = np.asarray(tokenize([case["text"] for case in cases]))
    assert found.shape == (len(cases), 77)
    assert found.dtype == np.int32
    for case, ids in zip(cases, found, strict=True):
        expected = case["ids"] + [END] * (77 - len(case["ids"]))
        assert ids.tolist() == expected, case["text"]
    for case in STRINGS["padded"]:
        assert tokenize(case["text"]).tolist() == case["ids"]


def test_the_same_rules_from_one_file(folder, tmp_path):
    """tokenizer.json, which newer folders have alone, also where it cuts and pads by itself; found in a checkpoint."""
    (tmp_path / "tokenizer").mkdir()
    backend = pretrained.clip.tokenizer(folder).backend
    backend.enable_truncation(9)
    backend.enable_padding(pad_id=0, pad_token="!", length=12)
    backend.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    found = pretrained.clip.tokenizer(tmp_path)
    assert (found.start, found.end, found.pad, found.length) == (START, END, 0, 77)
    cases = [case for case in STRINGS["cases"] if case["length_untruncated"] <= 77]
    expected = [case["ids"] + [0] * (77 - len(case["ids"])) for case in cases]
    np.testing.assert_array_equal(found([case["text"] for case in cases]), expected)


@pytest.mark.parametrize("name", ["sd1/tokenizer", "sd2_v/tokenizer"])
def test_the_truncated_vocabularies(name):
    """A padding token "!" is one wherever it stands, as in transformers."""
    tokenize = pretrained.clip.tokenizer(TINY / name)
    expected = json.loads((golden.FOLDER / "tokens.json").read_text())[name]
    np.testing.assert_array_equal(tokenize(list(expected)), list(expected.values()))


@pytest.mark.parametrize(
    ("recorded", "folders"),
    [
        ("pipeline_sd1_ddim_eta_clipskip", ["sd1/tokenizer"]),
        ("pipeline_sd2_v", ["sd2_v/tokenizer"]),
        ("pipeline_sdxl", ["sdxl/tokenizer", "sdxl/tokenizer_2"]),
        ("pipeline_inpaint9", ["inpaint"]),
    ],
)
def test_the_ids_of_the_pipelines(recorded, folders):
    meta, arrays, _ = golden.read(recorded)
    for folder, end in zip(folders, ("", "_2"), strict=False):
        tokenize = pretrained.clip.tokenizer(TINY / folder)
        for said, ids in (("prompt", "input_ids"), ("negative_prompt", "negative_input_ids")):
            expected = arrays[ids + end]
            texts = meta["call"].get(said, [""] * len(expected))
            texts = [texts] if isinstance(texts, str) else texts
            np.testing.assert_array_equal(tokenize(texts), expected)


# --- which tokens begin, end and pad ---------------------------------------------------------------------------------


def copy(tmp_path, **settings):
    """A folder of the tiny vocabulary, with a JSON file for each of the settings."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TINY / "sd1" / "tokenizer" / name, tmp_path / name)
    for name, content in settings.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("of_map", "of_config", "pad"),
    [(None, None, 1023), ("!", None, 0), (None, {"content": "!"}, 0), ("<|endoftext|>", "!", 1023), ("!", "a", 0)],
)
def test_the_padding_token(tmp_path, of_map, of_config, pad):
    """special_tokens_map.json goes before tokenizer_config.json, as in transformers."""
    folder = copy(tmp_path, special_tokens_map={"pad_token": of_map}, tokenizer_config={"pad_token": of_config})
    assert pretrained.clip.tokenizer(folder)("a cat")[-1] == pad


def test_length_and_added_tokens(tmp_path):
    folder = copy(tmp_path, tokenizer_config={"model_max_length": 12}, added_tokens={"<toy>": 1024, "<hat>": 1025})
    tokenize = pretrained.clip.tokenizer(folder)
    ids = tokenize("a <hat> <toy>")
    assert ids.shape == (12,)
    assert ids[1:5].tolist() == [320, 1025, 1024, 1023]
    unknown = {"model_max_length": 1000000000000000019884624838656}  # transformers' number for "nobody said it"
    assert pretrained.clip.tokenizer(copy(tmp_path, tokenizer_config=unknown))("").shape == (77,)


# --- long prompts ------------------------------------------------------------------------------------------------------


def test_a_long_prompt_is_cut_with_a_warning_that_shows_the_rest(tokenize):
    with pytest.warns(UserWarning, match=f"has 300 tokens, of which 75 fit; left out is {REST!r}$"):
        ids = tokenize(LONG)
    assert ids[-1] == END
    text = "a castle, " * 25 + "the 76th"  # 75 tokens before it
    with pytest.warns(UserWarning, match="79 tokens, of which 75 fit; left out is 'the 76th'$"):
        tokenize(["short", text])


def test_windows(tokenize):
    """Each window begins and ends; one that no token reaches is an empty text."""
    whole = [int(each) for each in tokenize(LONG, windows=None).ravel() if each not in (START, END)]
    assert len(whole) == 300
    ids = tokenize(LONG, windows=6)
    assert ids.shape == (6, 77)
    for window, tokens in zip(np.asarray(ids), np.split(np.array(whole), 4), strict=False):
        assert window.tolist() == [START, *tokens, END]
    np.testing.assert_array_equal(ids[4], tokenize(""))
    assert tokenize(["a", LONG, ""], windows=None).shape == (3, 4, 77)
    assert tokenize("a", windows=None).shape == (1, 77)
    assert tokenize([]).shape == (0, 77)
    with pytest.warns(UserWarning, match="300 tokens, of which 150 fit"):
        np.testing.assert_array_equal(tokenize(LONG, windows=2), ids[:2])


# --- weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("", [("", 1)]),
        ("(a)", [("a", 1.1)]),
        ("((a)) b", [("a", 1.21), (" b", 1)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("[[a] b]", [("a", 1 / 1.21), (" b", 1 / 1.1)]),
        ("x (a:1.3), y", [("x ", 1), ("a", 1.3), (", y", 1)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3), (" c", 1.5)]),
        ("(a:-0.5)", [("a", -0.5)]),
        ("(a: 0 )", [("a", 0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(a [b)c]", [("a ", 1.1), ("b", 1.1 / 1.1), ("c", 1 / 1.1)]),
        (r"\(a\) \[b\] \\ c\d", [(r"(a) [b] \ c\d", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("(a", [("a", 1.1)]),
        ("((a b", [("a b", 1.21)]),
        ("[a (b", [("a ", 1 / 1.1), ("b", 1.1 / 1.1)]),
        ("a) b] c:1.3) d", [("a) b] c:1.3) d", 1)]),
        ("[a:0.5]", [("a:0.5", 1 / 1.1)]),
        ("a () b", [("a  b", 1)]),
        ("8k, [low quality:1.2], ((best))", [("8k, ", 1), ("low quality:1.2", 1 / 1.1), (", ", 1), ("best", 1.21)]),
    ],
)
def test_brackets(prompt, parts):
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    np.testing.assert_allclose([weight for _, weight in found], [weight for _, weight in parts], rtol=1e-12)


def test_a_weight_that_is_no_number():
    with pytest.raises(ValueError, match=r"the weight '1\.2\.3', which is not a number"):
        parse_weights("(a:1.2.3)")


def test_weights_go_with_their_tokens(tokenize):
    ids, weights = tokenize.weighted("a (red castle:1.5) [hill]")
    np.testing.assert_array_equal(ids, tokenize("a red castle hill"))
    np.testing.assert_allclose(weights[:7], [1, 1, 1.5, 1.5, 1 / 1.1, 1, 1], rtol=1e-6)
    assert weights.shape == (77,)
    assert (weights[5:] == 1).all()
    ids, weights = tokenize.weighted(["(" + LONG + ":2)", ""], windows=None)
    np.testing.assert_array_equal(ids, tokenize([LONG, ""], windows=None))
    np.testing.assert_array_equal(weights, np.where(np.isin(ids, (START, END)), 1, 2))
    with pytest.warns(UserWarning, match=f"left out is '{REST}, all of it'"):
        tokenize.weighted(f"(({LONG})), all of it")


def test_weigh_keeps_the_mean_of_each_window():
    states = jax.random.normal(jax.random.key(0), (2, 3, 5, 4)) + 0.5
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, (2, 3, 5)), jnp.float32)
    z = weigh(states, weights)
    np.testing.assert_allclose(z.mean((-2, -1)), states.mean((-2, -1)), rtol=1e-4, atol=1e-6)
    ratio = z / (states * weights[..., None])
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[..., :1, :1], ratio.shape), rtol=1e-4)
    assert not np.allclose(ratio[0, 0], ratio[0, 1])
    np.testing.assert_array_equal(weigh(states, weights, keep_mean=False), states * weights[..., None])
    np.testing.assert_array_equal(weigh(states, jnp.ones((2, 3, 5))), states)
    assert jnp.isfinite(jax.grad(lambda states: weigh(states, weights).sum())(jnp.zeros(states.shape))).all()


# --- folders that are none ---------------------------------------------------------------------------------------------


def test_no_tokenizer(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"has no tokenizer: neither tokenizer\.json nor vocab\.json and merges\.txt; is the download complete\?$",
    ):
        pretrained.clip.tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match="has no tokenizer"):
        pretrained.clip.tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges.txt", "#version: 0.2\nqq xx", "are not a vocabulary"),
        ("vocab.json", "{", "are not a vocabulary"),
        ("tokenizer.json", "{}", r"tokenizer\.json is not a tokenizer"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is not a JSON file"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("added_tokens.json", '{"<toy>": 5000}', "gives '<toy>' the id 5000, which is not the next one"),
        ("special_tokens_map.json", '{"bos_token": "<s>"}', None),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path, name, content, message):
    (copy(tmp_path) / name).write_text(content)
    if message is None:  # the vocabulary learns it
        assert pretrained.clip.tokenizer(tmp_path).start == 1024
        return
    with pytest.raises(ValueError, match=message):
        pretrained.clip.tokenizer(tmp_path)


def test_prompts_that_are_none(tokenize):
    with pytest.raises(ValueError, match="a prompt is 3; give a text"):
        tokenize(["a", 3])
    with pytest.raises(ValueError, match="windows is 0"):
        tokenize("a", windows=0)
