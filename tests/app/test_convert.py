"""`convert.py`: OpenAI's weights become a run, and sampling it is what its own loops recorded."""

import dataclasses
import json
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from guided_jax import schedule
from guided_jax.app import cli, config_file
from guided_jax.app import run as runs
from guided_jax.app.convert import adm as published
from guided_jax.app.convert import command as convert
from guided_jax.app.sample import checks, draw
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method
from guided_jax.app.train import init_from, networks
from guided_jax.pretrained import adm
from guided_jax.storage import images
from tests.reverse.test_reverse import close, nhwc
from tests.scripts import run_script

LOOPS = np.load(pathlib.Path(__file__).parents[1] / "golden" / "net_loops.npz", allow_pickle=False)
META = json.loads(str(LOOPS["meta"]))
CONFIG = {"unet": META["unet_config"], "classifier": META["classifier_config"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The recorded networks as files of weights, and their constructors' arguments."""
    folder = tmp_path_factory.mktemp("weights")
    for name, prefix in (("unet.npz", "sd/"), ("classifier.npz", "sd_classifier/")):
        state = {key.removeprefix(prefix): LOOPS[key] for key in LOOPS.files if key.startswith(prefix)}
        np.savez(folder / name, **state)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def converted(files):
    out = files / "run"
    cli.script(convert.main, arguments(files, out))
    return out


def arguments(files, out, **changes):
    given = {
        "--classifier-weights": files / "classifier.npz",
        "--config": files / "config.json",
        "--out": out,
        **changes,
    }
    options = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    return [str(files / "unet.npz"), *options]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["ddpm_guided", "ddim_eta0_guided"])
def test_a_converted_run_samples_as_adm_did(key, converted, monkeypatch):
    """`drawing`, in ADM's order of clip and guidance, from its x_T with its noise: its stored picture."""
    case = next(case for case in META["cases"] if case["key"] == key)
    run = runs.load(converted)
    kind, steps = case["sampler"], case["respacing"]
    method = Method("classifier", sampler=kind, steps=steps, clip_base=True)
    params = {part: runs.params(converted, part) for part in ("diffusion", "classifier")}
    drawing = draw.make_draw(run, method, labelled=True)
    for item, y in enumerate(LOOPS[f"{key}/y"].astype(int)):
        noises = [nhwc(LOOPS[f"{key}/noises"][i][item]) for i in range(case["num_timesteps"])]
        drawn = iter([nhwc(LOOPS[f"{key}/x_T"][item]) / schedule.at(run.model.levels, -1).sigma, *noises])
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype=None, drawn=drawn: next(drawn))
        with jax.disable_jit():  # the scan as a loop, so that each step draws its own recorded noise
            x = drawing(params, jax.random.key(0), jnp.int32(y), case["scale"])
        close(x, nhwc(LOOPS[f"{key}/samples"][-1][item]), 5e-3)
        difference = images.to_uint8(x).astype(int) - LOOPS[f"{key}/uint8_nhwc"][item].astype(int)
        assert np.abs(difference).max() <= 1


@pytest.mark.slow  # of another family in the fast suite: tests/app/test_published_run.py
def test_the_command_line_draws_from_it(converted, tmp_path):
    line = [converted, "--guidance", "classifier", "--scale", "3", "--labels", "4", "--sampler", "ddpm", "--steps", "3"]
    line += ["--num-samples", "2", "--batch-size", "2", "--devices", "1", "--clip-base", "--out", tmp_path]
    cli.script(sample.main, [str(word) for word in line])
    drawn, labels = images.load_npz(tmp_path / "samples.npz")
    assert drawn.shape == (2, 8, 8, 3)
    assert list(labels) == [4, 4]


@pytest.mark.parametrize("name", adm.MODELS)
def test_a_published_model_becomes_an_experiment_of_the_same_network(name):
    """Nothing is allocated: the settings make the very module, up to its classifier."""
    model = published.named(name, "256x256_classifier")
    made = runs.assemble(published.experiment(model), published.facts_of(model))
    assert made.networks.diffusion == adm.unet(model.unet)
    assert made.networks.classifier == adm.classifier(model.classifier)
    assert float(made.model.levels.t[-1]) == 1000
    # The command that is shown at the end is one that sample.py understands.
    script, run, *rest = published.command(pathlib.Path("run"), model, guided=True).split()[1:]
    asked = cli.parse(sample.Sampling, script, [run, *rest])
    checks.check_readers(asked)
    assert (asked.scale, asked.method.steps) == ((model.scale,), str(model.steps))
    assert (asked.base_samples is None) == (model.low_res is None)


@pytest.mark.slow
def test_an_upsampler_starts_from_low_resolution_pictures(tmp_path):
    """A chain: pictures of a base model, then the run of the super-resolution network."""
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "unet_superres.npz", allow_pickle=False)
    config = json.loads(str(golden["meta"]))["config"]
    weights = {key.removeprefix("sd/"): golden[key] for key in golden.files if key.startswith("sd/")}
    np.savez(tmp_path / "up.npz", **weights)
    side = golden["low_res"].shape[-1]
    (tmp_path / "config.json").write_text(json.dumps({"unet": config, "low_res": side}))
    out = tmp_path / "run"
    line = [tmp_path / "up.npz", "--config", tmp_path / "config.json", "--out", out]
    cli.script(convert.main, [str(word) for word in line])
    low = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    images.save_npz(tmp_path / "low.npz", low, np.array([1, 0, 1]))
    draw = [out, "--base-samples", tmp_path / "low.npz", "--sampler", "ddpm", "--steps", "2", "--num-samples", "4"]
    draw += ["--batch-size", "4", "--devices", "1", "--labels", "1", "--out", tmp_path / "high"]
    cli.script(sample.main, [str(word) for word in draw])
    drawn, _ = images.load_npz(tmp_path / "high" / "samples.npz")
    size = config["image_size"]
    assert drawn.shape == (4, size, size, 3)
    for wrong, words in (
        ([*draw[:1], "--num-samples", "1"], "upsampler"),
        (
            [out, "--base-samples", tmp_path / "high" / "samples.npz", "--labels", "1", "--out", tmp_path / "no"],
            "starts from",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            sample.main([str(word) for word in wrong])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--model": "64x64_diffusion"}, "stands in the place"),
        ({"--config": None, "--model": "65x65_diffusion"}, "no published '65x65_diffusion'"),
        ({"--config": None, "--model": "64x64_diffusion", "--classifier": "none"}, "no published 'none'"),
        (
            {"--config": None, "--model": "64x64_diffusion", "--classifier": "64x64_classifier"},
            "missing .*surplus|missing",
        ),
        ({"--config": "nowhere.json"}, "cannot read nowhere.json"),
        ({"--classifier-weights": "nowhere.npz"}, "no file nowhere.npz"),
    ],
)
def test_wrong_use_is_one_sentence(change, words, files, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.script(convert.main, arguments(files, tmp_path / "run", **change))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.strip().splitlines()) == 1
    assert re.search(words, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "cosin"}, "schedule is 'cosin'; give linear or cosine"),
        ({"num_steps": 0}, "num_steps is 0; give a number from 1 to"),
        ({"num_steps": True}, "num_steps is True; give a number from 1 to"),
        ({"low_res": "4"}, "low_res is '4'; give a number from 1 to"),
        ({"unet": None}, "have to be arguments of the reference's constructors"),
        ({"unet": {**CONFIG["unet"], "speed": 3}}, "arguments that the reference does not know: speed"),
        ({"classifier": [3]}, "have to be arguments of the reference's constructors"),
        ({"scale": 3}, "has to hold unet, and perhaps"),
    ],
)
def test_a_config_that_describes_no_network_is_refused(change, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        published.read(tmp_path / "config.json")
    assert str(error.value).startswith(str(tmp_path / "config.json"))


def test_an_interrupted_conversion_is_finished_and_a_finished_one_is_refused_before_it_reads(
    files, tmp_path, monkeypatch, capsys
):
    """Killed between the checkpoints and config.json, which says that the run is whole."""
    words = arguments(files, tmp_path / "run", **{"--classifier-weights": None})
    with monkeypatch.context() as patch:
        patch.setattr(config_file, "create", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt):
            convert.main(words)
    assert runs.checkpoint.latest(tmp_path / "run" / "diffusion" / "checkpoints") == 1
    with pytest.raises(ValueError, match="is not a run"):
        runs.load(tmp_path / "run")
    other = published.read(files / "config.json")._replace(schedule="cosine")
    with pytest.raises(ValueError, match="diffusion holds checkpoints of another model; give another --out"):
        published.check_free(tmp_path / "run", other)
    convert.main(words)
    assert runs.params(tmp_path / "run", "diffusion")
    with pytest.raises(ValueError, match="this run has no data of its own; name pictures in a file instead"):
        runs.source(runs.load(tmp_path / "run"))
    monkeypatch.setattr(adm, "read_state_dict", lambda *_: pytest.fail("the weights are read"))
    code, _, err = run_script(convert.main, words, capsys)
    assert (code, "run holds a run already; give another --out, or delete it" in err) == (2, True), err


def interrupt():
    raise KeyboardInterrupt


def test_training_starts_from_published_weights(converted):
    """Fine-tuning for classifier-free guidance: a null label joins their classes, all else is theirs."""
    run = runs.load(converted)
    settings = dataclasses.replace(run.experiment.diffusion, num_steps=1, label_dropout=0.1, init_from=converted)
    run = runs.assemble(dataclasses.replace(run.experiment, diffusion=settings), run.facts)
    assert init_from.check(run, "diffusion", converted / "new").endswith("step 1; new: the null label")
    given, theirs = init_from.load(run, "diffusion"), runs.params(converted, "diffusion")
    chex.assert_trees_all_equal(given, traverse_util.flatten_dict(theirs, sep="/"))
    shapes = jax.eval_shape(lambda: networks.init_state(run, "diffusion", given).params)
    assert shapes["params"]["label_emb"]["embedding"].shape[0] == run.facts.num_classes + 1
