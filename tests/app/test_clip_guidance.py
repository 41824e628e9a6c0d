"""`--guidance clip` in the command, by a tiny CLIP, which must not measure what it guided."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import schedule
from guided_jax.app import cli
from guided_jax.app import metrics as metrics_command
from guided_jax.app import run as runs
from guided_jax.app.sample import clip_guide
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.models.clip import similarity
from guided_jax.pretrained import clip
from guided_jax.storage import images
from tests import tiny_clip
from tests.app.test_captions_as_condition import CAPTIONS, PICTURES, experiment
from tests.scripts import run_script
from tests.untrained import make_untrained

TEXT = "a zebra"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip.own(tmp_path_factory.mktemp("clip") / "own")


def draw(run, out, *words):
    line = [run, "--num-samples", "4", "--batch-size", "4", "--devices", "1", "--steps", "5", "--out", out, *words]
    cli.script(sample.main, [str(word) for word in line])
    return images.load_npz(out / "samples.npz")[0]


def nearness(folder, *several):
    """The mean cosine between each of several stacks of pictures and the text."""
    found = clip.load_folder(folder)
    embed, text = jax.jit(jax.vmap(lambda picture: clip.embed_image(found, picture))), clip.embed_text(found, [TEXT])
    return [float(similarity(embed(images.from_uint8(pictures)), text).mean()) for pictures in several]


@pytest.mark.slow
def test_samples_are_drawn_towards_a_text_and_away_from_it(tiny, folder, tmp_path, capsys):
    words = ("--guidance", "clip", "--clip-model", folder, "--cutouts", "2", "--scale", "300", "--labels", "3")
    toward = draw(tiny, tmp_path / "toward", *words, "--clip-text", TEXT)
    away = draw(tiny, tmp_path / "away", *words, "--clip-text", f"{TEXT}:-1")
    near, far = nearness(folder, toward, away)
    assert near > far + 2e-3
    recorded = json.loads((tmp_path / "away" / "samples.json").read_text())["method"]
    assert (recorded["clip_model"], recorded["clip_text"]) == (str(folder), [f"{TEXT}:-1"])

    (tmp_path / "captions.txt").write_text("\n".join(["a cat"] * 10))
    by = [tmp_path / "toward" / "samples.npz", "--clip", folder, "--captions", tmp_path / "captions.txt"]
    code, _, err = run_script(metrics_command.main, by, capsys)
    assert (code, "is the one that guided the samples, and favours them; give another CLIP" in err) == (2, True), err


@pytest.mark.slow
def test_samples_are_drawn_by_it_as_a_criterion(tiny, folder, tmp_path):
    words = (
        "--guidance",
        "off-the-shelf",
        "--criterion",
        "clip",
        "--clip-model",
        folder,
        "--cutouts",
        "2",
        "--scale",
        "300",
    )
    toward = draw(tiny, tmp_path / "toward", *words, "--clip-text", TEXT)
    away = draw(tiny, tmp_path / "away", *words, "--clip-text", f"{TEXT}:-1")
    assert nearness(folder, toward) > nearness(folder, away) + 2e-3


def test_as_a_criterion_it_has_two_penalties(tiny, folder):
    """What is uneven, and what is out of range, counts with its weight."""
    run = clip_guide.add_clip(runs.load(tiny), folder)
    request = Sampling(tiny, Method("universal", criterion="clip", clip_text=(TEXT,), cutouts=1))
    own = {"diffusion": None, "clip": clip_guide.params_of(request, run, jax.devices()[0])}
    x_0 = 1.5 * jnp.ones((8, 8, 1)).at[:, 4:].set(-1)
    methods = [
        dataclasses.replace(request.method, **weights) for weights in ({}, {"tv_weight": 2.0}, {"range_weight": 0.5})
    ]

    @jax.jit
    def values(own, x_0):
        parts = [Parts(run, method, own, key=jax.random.key(0)) for method in methods]
        return [each.clean_log_prob(x_0, schedule.at(run.model.levels, 5)) for each in parts]

    plain, smooth, bounded = map(float, values(own, x_0))
    np.testing.assert_allclose(smooth - plain, -2.0 * 8 * (1.5 + 1.5), rtol=1e-4)
    np.testing.assert_allclose(bounded - plain, -0.5 * 64 * 0.25, rtol=1e-4)


def test_a_criterion_of_a_clip_refuses_what_it_ignores(tiny, folder, tmp_path, capsys):
    for words, said in {
        ("--criterion", "clip"): "--criterion clip needs a CLIP; name its folder by --clip-model",
        ("--criterion", "clip", "--clip-model", folder): "--criterion clip has no text to guide towards",
        ("--clip-model", folder): "--clip-model",
        ("--tv-weight", "2"): "--tv-weight",
    }.items():
        line = [tiny, "--guidance", "universal", *words, "--out", tmp_path / "out"]
        code, _, err = run_script(sample.main, line, capsys)
        assert (code, said in err) == (2, True), err


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """An untrained run of captioned pictures."""
    place = tmp_path_factory.mktemp("captions")
    np.savez(place / "set.npz", images=PICTURES, labels=np.arange(40) // 10, captions=np.array(CAPTIONS))
    make_untrained(place / "run", experiment(place))
    return place / "run"


@pytest.mark.slow
def test_a_run_of_prompts_goes_towards_each_samples_own(captioned, folder, tmp_path):
    words = ("--prompt", "a red disc", "a green square", "--guidance", "clip", "--clip-model", folder)
    words = (*words, "--cutouts", "2", "--scale", "300")
    own = draw(captioned, tmp_path / "own", *words)
    same = draw(captioned, tmp_path / "same", *words, "--clip-text", "a red disc")
    np.testing.assert_allclose(own[::2].astype(int), same[::2], atol=1)
    assert (np.abs(own[1::2].astype(int) - same[1::2]) > 1).any()


@pytest.mark.slow
def test_latents_are_guided_through_the_decoder(stable_diffusion, folder, tmp_path):
    words = ("--prompt", "a cat", "two red apples", "--guidance")
    guided = (*words, "clip", "--clip-model", folder, "--cutouts", "2", "--scale")
    plain, nothing, much = (
        draw(stable_diffusion, tmp_path / name, *given).astype(int)
        for name, given in {"plain": (*words, "none"), "0": (*guided, "0"), "300": (*guided, "300")}.items()
    )
    assert np.abs(nothing - plain).max() <= 1
    assert np.abs(much - plain).max() > 1
