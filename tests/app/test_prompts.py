"""Text to image by the command line: prompts are the classes of a converted Stable Diffusion."""

import json
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from guided_jax import sampler, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import checks, guidance_rows, inputs, prompt_files, prompts, request, samplers
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw as draw_module
from guided_jax.app.sweep import command as sweep
from guided_jax.prediction import Prediction
from guided_jax.storage import images
from tests import latent_golden as golden


@pytest.fixture(scope="module")
def run(stable_diffusion):
    return stable_diffusion


def draw(run, out, *words):
    line = [run, "--num-samples", "4", "--batch-size", "4", "--devices", "1", "--steps", "3", "--out", out, *words]
    cli.script(sample.main, [str(word) for word in line])
    return images.load_npz(out / "samples.npz")


@pytest.mark.slow  # in the fast suite a command with both draws what is recorded: tests/app/test_recorded_pictures.py
def test_prompts_in_turn_and_a_negative_one(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ntwo red apples\n")
    words = ("--prompt", "a photo of a cat", "--prompts", tmp_path / "prompts.txt", "--negative", "blurry")
    drawn, labels = draw(run, tmp_path / "out", *words, "--scale", "7.5")
    assert drawn.shape[0] == 4
    assert list(labels) == [0, 1, 0, 1]
    assert (
        Image.open(tmp_path / "out" / "grid.png").width == 4 * (drawn.shape[2] + 2) + 2
    )  # as many columns as pictures
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["negative_prompt"] == ["blurry", "blurry"]
    assert record["prompt"] == ["a photo of a cat", "two red apples"]
    assert record["method"]["guidance"] == "classifier-free"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--guidance", "negative", "--negative", "blurry", "--scale", "3"),
        ("--guidance", "compose", "--also", "two red apples", "--also-scale", "-1", "--scale", "3"),
        ("--guidance", "perturbed-attention", "--scale", "3"),
        ("--preset", "--scale", "5"),
    ],
)
def test_other_guidances_of_prompts(run, tmp_path, words):
    drawn, _ = draw(run, tmp_path, *words, "--prompt", "a photo of a cat")
    assert np.std(drawn) > 5


def test_a_prompt_has_a_negative_one_a_scale_and_a_seed_of_its_own(run, tmp_path):
    """The rows of a file are drawn with what each of them would be drawn with alone."""
    rows = [
        {"prompt": "a photo of a cat", "negative": "blurry", "scale": 3, "seed": 7},
        {"prompt": "two red apples"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [str(run), "--prompts", str(tmp_path / "rows.jsonl"), "--scale", "5", "--seed", "2", "--negative", "dark"]
    options, found = sample.resolve_run(sample.parse(words))
    assert options.negative_prompt == ("blurry", "dark")
    given = inputs.make_inputs(options, found)(np.arange(4))
    assert list(given.labels) == [0, 1, 0, 1]
    assert list(given.scales) == [3, 5, 3, 5]
    assert list(given.seeds) == [7, 2, 7, 2]
    assert list(given.numbers) == [0, 1, 1, 3]
    alone = draw_module._keys(np.full(2, 7, np.uint32), np.arange(2))
    keys = draw_module._keys(given.seeds.astype(np.uint32), given.numbers)
    assert (jax.random.key_data(keys)[::2] == jax.random.key_data(alone)).all()
    whole = sampler.keys(jax.random.fold_in(jax.random.key(2), 0), np.arange(4))
    assert (jax.random.key_data(keys)[1::2] == jax.random.key_data(whole)[1::2]).all()


@pytest.fixture(scope="module")
def told():
    """The tiny Stable Diffusion XL, which is told sizes, with one prompt of each kind."""
    found = runs.load(golden.FOLDER / "checkpoints" / "sdxl")
    return found, jax.jit(found.model.condition), found.params("diffusion")


def condition_of(told, *words):
    """Return what the network is told of the first prompt of a request, and beside it."""
    run, condition, params = told
    options = sample.parse(["run", *words])
    _, run = prompts.resolve_prompts(options, run)
    return condition(params, run.raw(0)), condition(params, run.null(0)), run


def test_sizes_windows_and_states_reach_the_network(told, tmp_path):
    words = ("--prompt", "a (red:1.5) cat", "--size", "16", "24")
    plain, null, run = condition_of(told, *words)
    assert run.facts.image_shape == (16, 24, 3)
    assert list(plain["time_ids"]) == [16, 24, 0, 0, 16, 24]
    assert not null["context"].any()  # XL without a negative prompt
    sized = ("--original-size", "768", "1024", "--crop", "1", "2", "--negative-crop", "3", "4", "--negative", "dog")
    positive, negative, _ = condition_of(told, *words, *sized)
    assert list(positive["time_ids"]) == [768, 1024, 1, 2, 16, 24]
    assert list(negative["time_ids"]) == [768, 1024, 3, 4, 16, 24]
    assert negative["context"].any()
    both, empty, _ = condition_of(told, *words, "--windows", "2")
    assert both["context"].shape == empty["context"].shape == (154, plain["context"].shape[1])
    np.testing.assert_allclose(both["context"][:77], plain["context"], atol=1e-5)
    weighed, _, _ = condition_of(told, *words, "--weighted")
    assert np.abs(weighed["context"] - plain["context"]).max() > 1e-2
    states = {"context": np.asarray(plain["context"])[None], "pooled": np.asarray(plain["pooled"])[None]}
    np.savez(tmp_path / "states.npz", **states)
    given, _, _ = condition_of(told, "--prompts", str(tmp_path / "states.npz"), "--size", "16", "24")
    jax.tree.map(np.testing.assert_array_equal, given, plain)


def test_a_prompt_that_is_a_number_is_no_number_of_a_prompt(told):
    words = ["run", "--prompt", "a cat", "--guidance", "compose", "--also", "0"]
    options, run = prompts.resolve_prompts(sample.parse(words), told[0])
    assert options.prompt == run.facts.class_names == ("a cat", "0")
    assert (options.labels, options.method.also) == ((0,), (1,))


def test_guidance_from_a_negative_prompt_is_classifier_free(told):
    """With the negative prompt of each line, its sizes, and all layers of the text towers."""
    words = ["run", "--prompt", "a cat", "--guidance", "negative", "--negative", "0", "--negative-crop", "3", "4"]
    options, run = prompts.resolve_prompts(sample.parse(words), told[0])
    assert (options.prompt, options.negative_prompt) == (("a cat",), ("0",))
    assert list(run.null(0).sizes[2:4]) == [3, 4]
    checks.check(options, run)
    c, u = (lambda x, level, by=by: Prediction(by * x, by * x) for by in (1.0, 5.0))
    base, guide = guidance_rows.GUIDANCES["negative"].make(
        SimpleNamespace(run=run, conditional=c, unconditional=u, scale=3)
    )
    level = schedule.at(run.model.levels, 500)
    assert guide(base)(jnp.ones(2), level).eps.tolist() == [5 + 3 * (1 - 5)] * 2


@pytest.mark.parametrize(
    "words",
    [
        ("--prompt", "a dog"),
        ("--guidance", "compose", "--also", "a dog"),
        ("--weighted",),
        ("--clip-skip", "1"),
    ],
)
def test_what_states_cannot_stand_beside_is_one_sentence(told, tmp_path, words):
    found, _, _ = told
    widths = found.text.widths
    np.savez(tmp_path / "states.npz", context=np.zeros((1, 77, widths[0])), pooled=np.zeros((1, widths[1])))
    left_out = [word for word in words if word.startswith("--")][-1]
    with pytest.raises(ValueError, match=f"--prompts has states, .* leave out .*{left_out}"):
        prompts.resolve_prompts(sample.parse(["run", "--prompts", str(tmp_path / "states.npz"), *words]), found)


def test_a_bad_run_of_other_texts_is_one_sentence(told, tmp_path):
    """It reads the same prompts, with towers of its own."""
    found = told[0]._replace(text=told[0].text._replace(depth=3))
    shallow, narrow = found.text._replace(depth=2), found.text._replace(widths=(3, 3))
    words = ["run", "--prompt", "a cat", "--clip-skip", "1"]
    prompts.resolve_prompts(sample.parse(words), found._replace(bad=found))
    with pytest.raises(ValueError, match="the text tower has 2 layers"):
        prompts.resolve_prompts(sample.parse(words), found._replace(bad=found._replace(text=shallow)))
    widths = found.text.widths
    np.savez(tmp_path / "states.npz", context=np.zeros((1, 77, widths[0])), pooled=np.zeros((1, widths[1])))
    words = ["run", "--prompts", str(tmp_path / "states.npz")]
    with pytest.raises(ValueError, match="the run of --bad reads"):
        prompts.resolve_prompts(sample.parse(words), found._replace(bad=found._replace(text=narrow)))


def test_a_prompt_that_is_too_long_says_what_is_cut(told, capsys):
    cli.script(lambda words: condition_of(told, *words), ["--prompt", "cat " * 80])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the prompt has")
    assert "left out is" in line


WRONG_FILES = {
    "none.jsonl": (b"a cat", "line 1 is no prompt"),
    "list.jsonl": (b'["a cat"]', "line 1 is no prompt"),
    "name.jsonl": (b'{"prompt": "a cat", "size": 3}', "has 'size', which no prompt has"),
    "kind.jsonl": (b'{"prompt": "a cat", "seed": "3"}', "has the seed '3'"),
    "seed.jsonl": (b'{"prompt": "a cat", "seed": -3}', "has the seed -3"),
    "scale.jsonl": (b'{"prompt": "a cat", "scale": NaN}', "has the scale nan"),
    "large.jsonl": (b'{"prompt": "a cat", "scale": 1' + b"0" * 400 + b"}", "give a finite number"),
    "empty.txt": (b"\n\n", "holds no prompt"),
    "bytes.txt": (b"\xff\xfe\x00", "is no text file of prompts"),
    "bytes.npz": (b"no states", "holds no states of prompts"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_of_prompts_is_one_sentence(name, tmp_path):
    body, message = WRONG_FILES[name]
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ValueError, match=message):
        prompt_files.read(request.Sampling(tmp_path, prompts=tmp_path / name), (64,))


def test_a_line_ends_at_a_new_line_alone(tmp_path):
    """JSON may hold U+2028 as it is, at which `str.splitlines` breaks a line."""
    (tmp_path / "rows.jsonl").write_bytes('{"prompt": "a\u2028cat"}\r\n{"prompt": "a dog"}'.encode())
    assert [row.prompt for row in prompt_files.read_file(tmp_path / "rows.jsonl", ())] == ["a\u2028cat", "a dog"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"context": np.zeros((2, 77, 32))}, "has context of shape (2, 77, 32), and the run reads (2, 77, 64)"),
        ({"context": np.zeros(3)}, "and the run reads (3, tokens, 64)"),
        ({"states": np.zeros((2, 77, 64))}, "give the arrays context"),
        ({"context": np.full((1, 77, 64), np.nan)}, "not finite"),
    ],
)
def test_states_of_the_wrong_shape_are_one_sentence(arrays, message, tmp_path):
    np.savez(tmp_path / "states.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_files.read(request.Sampling(tmp_path, prompts=tmp_path / "states.npz"), (64,))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name what to draw with --prompt"),
        (["--labels", "3"], "leave out --labels"),
        (["--prompts", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--prompt", "a cat", "--also", "a dog"], "--also has no effect"),
        (["--prompt", "a cat", "--crop", "3", "4"], "leave out --crop"),
        (["--prompt", "a cat", "--size", "17", "16"], "--size is 17x16; give multiples of 4"),
        (["--prompt", "a cat", "--clip-skip", "9"], "--clip-skip is 9"),
        (["--prompt", "a cat", "--mask", "m.png"], "--mask has no effect here"),
        (["--prompt", "a cat", "--windows", "0"], "--windows is 0"),
        (["--prompt", "a cat", "--size", "32"], "--size is '32'; give INT INT; see"),
        (["--prompt", "a cat", "--image", "held-out"], "this run has no data of its own"),
        (["--prompt", "a cat", "--guidance", "negative"], "negative goes away from a prompt; name it by --negative"),
        (
            ["--prompt", "a cat", "--guidance", "none", "--negative", "blurry"],
            "none has no negative prompt; leave it out",
        ),
        (["--prompt", "a cat", "--sampler", "published", "--grid", "karras"], "leave out --grid karras"),
        (["--prompt", "a cat", "--sampler", "published", "--eta", "1"], "--eta has no effect with --sampler published"),
        (["--prompt", "a cat", "--guidance", "independent"], "there is only one"),
        (["--prompt", "a cat", "--guidance", "negative"], "name it by --negative"),
    ],
)
def test_wrong_prompts_are_one_sentence(run, tmp_path, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.script(sample.main, [str(run), "--out", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [(), ("--scales", "0,2")])
def test_a_sweep_of_prompts_reads_the_preset(run, words, monkeypatch):
    """All of it but the scale, in place of which a sweep has its own."""
    found = []
    monkeypatch.setattr(sweep, "prepare", lambda options: (options, None))
    monkeypatch.setattr(sweep, "sweep_run", lambda options, _: found.append(options))
    sweep.main([str(run), "--preset", "--prompt", "a cat", *words])
    assert found[0].scale == (1.0,)
    assert found[0].method.sampler == "published"
    assert found[0].sweep.sweep == (words[1] if words else sweep.DEFAULT_SCALES)


@pytest.mark.parametrize("own", [{"scale": 3}, {"seed": 3}])
def test_a_sweep_refuses_what_it_would_not_change(own, told, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a cat"} | own))
    words = ["run", "--prompts", str(tmp_path / "rows.jsonl"), "--sweep", "0:2"]
    with pytest.raises(ValueError, match=f"--prompts has a {next(iter(own))} of its own"):
        checks.check(*prompts.resolve_prompts(sample.parse(words), told[0]))


def test_a_bad_run_that_paints_is_one_sentence(told):
    run = told[0]
    bad = run._replace(text=run.text._replace(takes_mask=True))
    words = ["run", "--prompt", "a cat", "--guidance", "autoguidance", "--bad", "bad", "--scale", "2"]
    checks.check(*prompts.resolve_prompts(sample.parse(words), run._replace(bad=run)))
    with pytest.raises(ValueError, match="the run of --bad paints in pictures"):
        checks.check(*prompts.resolve_prompts(sample.parse(words), run._replace(bad=bad)))


@pytest.mark.parametrize(("name", "reads"), [("DDIMScheduler", True), ("DPMSolverMultistepScheduler", False)])
def test_a_published_sampler_reads_what_its_scheduler_reads(name, reads):
    """cfg++ leaves eps as it is, which a solver of x_0 never reads."""
    assert samplers.reads_eps(request.Method(sampler="published"), {"_class_name": name}) is reads


def test_prompts_to_a_run_of_classes_are_one_sentence(published, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.script(sample.main, [str(published), "--out", str(tmp_path / "out"), "--prompt", "a cat"])
    assert ended.value.code == 2
    assert "this run takes no prompts; name classes with --labels" in capsys.readouterr().err


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path, capsys):
    folder = tmp_path / "sd"
    shutil.copytree(golden.FOLDER / "checkpoints" / "sd1", folder)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(SystemExit) as ended:
        cli.script(sample.main, [str(folder), "--out", str(tmp_path / "out"), "--prompt", "a cat"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "has no tokenizer" in message
    assert "is the download complete?" in message


def test_a_sweep_of_prompts_guides_and_has_scales_of_its_own(run):
    """Without --guidance, and with a preset, whose scale is not that of the sweep."""
    for words in (["--prompt", "a cat"], ["--prompt", "a cat", "--preset"]):
        options = sample.parse(["--scales", "0:8", str(run), *words], "guided-jax sweep", sweep.PAGE)
        assert (options.method.guidance, options.scale) == ("classifier-free", (1.0,))


def test_a_sweep_and_its_command_line_are_of_prompts(run, tmp_path):
    """As they were given, and not the numbers that they have become."""
    row = json.dumps({"prompt": "a bird", "negative": "dark"})
    (tmp_path / "rows.jsonl").write_text(row)
    words = ["--prompt", "a cat", "two dogs", "--negative", "blurry", "--guidance", "classifier-free"]
    words += ["--prompts", str(tmp_path / "rows.jsonl")]
    options, found, line = sweep.prepare(
        cli.parse(request.Sampling, "guided-jax sweep", [str(run), *words], description="")
    )
    assert found.facts.class_names == ("a cat", "two dogs", "a bird")
    assert options.negative_prompt == ("blurry", "blurry", "dark")
    assert f"--prompt 'a cat' 'two dogs' --prompts {tmp_path / 'rows.jsonl'}" in line
    assert "--negative blurry" in line
    assert "--labels" not in line
