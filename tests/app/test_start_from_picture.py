"""`guided-jax sample --image`: where a run starts, what is recorded of it, and pictures that come out near their images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import model, schedule
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw, samplers
from guided_jax.app.sample.request import Measurement, Method, Sampling
from guided_jax.storage import images
from tests.scripts import run_script

TABLE = schedule.cosine(100)
# Latents that are half as wide as the images, and twice as large.
LATENT = model.Model(None, TABLE, shape=(4, 2, 1), encode=lambda params, key, image: params * image[:, ::2])
RUN = runs.from_params(LATENT, facts.Facts((4, 4, 1), 2, (0.5, 0.5)), {})


def test_a_run_starts_at_the_noised_code_of_its_image():
    levels = samplers.levels_of(Method(steps="10", grid="uniform", image=("a.png",), strength=0.4), TABLE)
    whole = samplers.levels_of(Method(steps="10", grid="uniform"), TABLE)
    np.testing.assert_array_equal(levels.t, whole.t[:5])
    level, image = schedule.at(levels, -1), jnp.arange(16.0).reshape(4, 4, 1)
    noise = draw.start(RUN, jax.random.key(0), level)
    code = draw.encode(RUN, jnp.float32(2), jax.random.key(0), image)
    found = draw.start(RUN, jax.random.key(0), level, code)
    np.testing.assert_allclose(found, noise + level.alpha * 2 * image[:, ::2], rtol=1e-6)
    assert 0.2 < np.std(noise / level.sigma) < 2


def test_the_default_strength_is_1_where_a_hole_is_painted_and_not_where_a_mask_is_measured():
    masked = Measurement(mask=("m.png",))
    painted = Method(steps="10", grid="uniform", image=("a.png",), measurement=masked)
    measured = dataclasses.replace(painted, guidance="pigdm")
    assert [len(samplers.levels_of(each, TABLE).t) for each in (painted, measured)] == [11, 7]


def test_the_image_is_recorded_and_requests_without_one_are_what_they_were(tmp_path):
    older = sample.request(Sampling(tmp_path))
    assert not {"image", "strength"} & set(older["method"])
    now = sample.request(Sampling(tmp_path, Method(image=("a.png",), strength=0.5)))
    assert now["method"] == {**older["method"], "image": ["a.png"], "strength": 0.5}


def test_a_low_strength_keeps_the_pictures_and_the_grid_shows_them(tiny, tmp_path, capsys):
    words = ["--image", "held-out", "--strength", "0.1", "--steps", "10", "--num-samples", "4", "--batch-size", "2"]
    code, _, err = run_script(sample.main, [tiny, *words, "--out", tmp_path], capsys)
    assert code == 0, err
    truth = runs.load(tiny).experiment.data.make(held_out=True).read(np.arange(4))["image"].astype(int)
    found = images.load_npz(tmp_path / "samples.npz")[0].astype(int)
    assert np.abs(found - truth).mean() < 30
    assert np.abs(found - truth[::-1]).mean() > 50
    assert (tmp_path / "start.png").is_file()


def test_a_mask_keeps_what_is_black_and_paints_what_is_white(tiny, tmp_path, capsys):
    truth = runs.load(tiny).experiment.data.make(held_out=True).read(np.arange(4))["image"]
    white = np.zeros((1, *truth.shape[1:3], 3), np.uint8)
    white[:, 2:5, 2:5] = 255
    np.savez(tmp_path / "mask.npz", arr_0=white)
    words = ["--image", "held-out", "--mask", tmp_path / "mask.npz", "--steps", "4", "--num-samples", "4"]
    code, _, err = run_script(sample.main, [tiny, *words, "--batch-size", "4", "--out", tmp_path / "out"], capsys)
    assert code == 0, err
    found = images.load_npz(tmp_path / "out" / "samples.npz")[0].astype(int)
    known = np.broadcast_to(white[..., :1] == 0, truth.shape)
    np.testing.assert_allclose(found[known], truth[known], atol=1)
    assert np.abs(found - truth)[~known].mean() > 20


def test_a_mask_of_another_size_is_one_sentence(tiny, tmp_path, capsys):
    np.savez(tmp_path / "mask.npz", arr_0=np.full((1, 3, 3, 3), 255, np.uint8))
    words = ["--image", "held-out", "--mask", tmp_path / "mask.npz", "--out", tmp_path / "out"]
    code, _, err = run_script(sample.main, [tiny, *words], capsys)
    assert code == 2
    assert "give masks of that height and width" in err
    assert not (tmp_path / "out" / "samples.npz").exists()
