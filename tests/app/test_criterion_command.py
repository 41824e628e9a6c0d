"""`--criterion` on the command line: what each is, and that it guides."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import schedule
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample import checks, criteria, resolve
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.storage import images
from tests.scripts import run_script

LEVEL = schedule.at(schedule.cosine(10), 1)
X = jax.random.normal(jax.random.key(0), (8, 8, 1))


def of(words, run):
    return criteria.add_criterion(run, Method(criterion=words)).criterion


@pytest.fixture(scope="module")
def run(tiny):
    return runs.load(tiny)


def test_a_colour_moves_each_pixel_by_what_the_mean_lacks(run):
    slope = jax.grad(of("colour:255", run))(X, LEVEL)
    np.testing.assert_allclose(slope, jnp.full_like(X, 1 - X.mean()), rtol=1e-4)


def test_a_picture_moves_each_pixel_by_what_it_lacks(run, tmp_path):
    images.save_png(tmp_path / "grey.png", np.full((8, 8, 1), 51, np.uint8))
    slope = jax.grad(of(f"picture:{tmp_path / 'grey.png'}", run))(X, LEVEL)
    np.testing.assert_allclose(slope, -0.6 - X, atol=0.01)


def test_a_style_is_that_of_the_patches_and_never_steeper_than_the_pixels(run, tmp_path):
    """Of stripes it prefers stripes, wherever they lie; of a picture of another size too."""
    stripes = np.tile(np.array([[[255]], [[0]]], np.uint8), (6, 12, 1))
    images.save_png(tmp_path / "stripes.png", stripes)
    criterion = of(f"style:{tmp_path / 'stripes.png'}", run)
    down = jnp.asarray(stripes[:8, :8] / 127.5 - 1, jnp.float32)
    across = jnp.swapaxes(down, 0, 1)
    liked = jax.jit(criterion)
    assert float(liked(-down, LEVEL)) > 0.5 * float(liked(across, LEVEL))
    curvature = jax.jit(jax.hessian(lambda x: -criterion(x.reshape(8, 8, 1), LEVEL)))
    steepest = np.linalg.eigvalsh(curvature(down.reshape(-1))).max()
    assert 0.02 < float(steepest) <= 1


def test_a_function_of_ones_own(run, tmp_path, tiny, capsys):
    """It is drawn by; another file is another request."""
    mine = tmp_path / "mine.py"
    mine.write_text("def dark_below(picture, level):\n    return -10 * ((picture[4:] + 1) ** 2).mean()\n")
    words = ["--guidance", "training-free", "--criterion", f"{mine}:dark_below", "--sampler", "ddim", "--steps", 4]
    code, _, err = run_script(sample.main, [tiny, *words, "--num-samples", 4, "--out", tmp_path / "out"], capsys)
    assert code == 0, err
    assert images.load_npz(tmp_path / "out" / "samples.npz")[0].shape == (4, 8, 8, 1)
    mine.write_text("def dark_below(picture, level):\n    return picture.sum()\n")
    again = run_script(sample.main, [tiny, *words, "--num-samples", 4, "--out", tmp_path / "out"], capsys)
    assert (again[0], "holds other samples" in again[2] or "another" in again[2]) == (2, True)
    mine.write_text("def dark_below(picture, level):\n    return picture\n")
    code, _, err = run_script(sample.main, [tiny, *words, "--out", tmp_path / "other"], capsys)
    assert (code, "returns (8, 8, 1) of x_0 (8, 8, 1); return one scalar" in err) == (2, True)


def test_options_reach_the_step(run, monkeypatch):
    """The scale multiplies both strengths; the clip goes into the step and not around the denoiser."""
    seen = {}
    monkeypatch.setattr(
        "guided_jax.reverse.training_free", lambda step, log_prob, *given, **named: seen.update(named, given=given)
    )
    method = Method(guidance="training-free", criterion="colour:200", steps="5")
    method = dataclasses.replace(
        method,
        training_free=dataclasses.replace(method.training_free, rho=0.0, mu=0.5, recurrence=3, weights="constant"),
    )
    run = criteria.add_criterion(run, method)
    recipe = resolve.resolve(method, run)
    recipe.step(Parts(run, method, {}, scale=4.0))
    assert seen["given"] == (0.0, 2.0, 0.001, 1, 4, 3)
    assert (seen["weights"], seen["clip"], len(seen["levels"].t), recipe.clip) == ("constant", (-1.0, 1.0), 6, None)


def test_a_picture_for_a_run_of_latents_is_refused(published):
    run = runs.load(published)
    channels = run.facts.image_shape[-1]
    method = Method(guidance="universal", criterion="colour:" + ",".join(["9"] * channels))
    told = criteria.add_criterion(run, method)
    with pytest.raises(ValueError, match="is of pictures, and this run works on latents; add --in pixels"):
        checks.check(Sampling(published, method), told)
    checks.check(Sampling(published, dataclasses.replace(method, space="pixels")), told)


def test_colours_need_a_number_for_each_channel(run):
    known = Facts((8, 8, 3), 2, (0.5, 0.5))
    with pytest.raises(ValueError, match="give 3 numbers from 0 to 255, such as colour:200,40,40"):
        of("colour:1,2,300", run._replace(facts=known))
