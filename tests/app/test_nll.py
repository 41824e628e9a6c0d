"""Bits per dimension by the command: a normal law's own, and a trained run's from the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import analytic, schedule
from guided_jax.app import nll
from guided_jax.app import run as runs
from guided_jax.storage import images
from tests.scripts import run_script

STD, SHAPE = 0.5, (4, 4, 1)
NORMAL = analytic.GaussianMixture((1.0,), np.zeros((1, *SHAPE)), (STD,))


@pytest.mark.slow  # the density itself is held by tests/mathematics/test_likelihood.py
def test_the_flow_has_a_normal_laws_entropy_in_bits(tiny):
    """Of grey values, which are narrow beside the law: E -log2 p + log2(127.5)."""
    run = runs.load(tiny)
    run = run._replace(model=run.model._replace(levels=schedule.cosine(400)))
    options = nll.Nll(tiny, by="flow", steps="60", probes=4)
    one = nll.by_flow(options, run, lambda params, label, x_0: NORMAL.denoiser())
    keys = jax.random.split(jax.random.key(0), 64)
    x_0 = images.from_uint8(images.to_uint8(jax.vmap(NORMAL.sample)(keys)))
    found = jax.jit(jax.vmap(lambda key, x: one(None, key, x, None)))(keys, x_0)
    density = jnp.mean(x_0**2, axis=(1, 2, 3)) / (2 * STD**2) + jnp.log(2 * jnp.pi * STD**2) / 2
    exact = density.mean() / jnp.log(2) + nll.GREY
    assert abs(found["bits"].mean() - exact) < 0.02


def test_the_command_says_and_writes_the_mean_of_every_picture(tiny, tmp_path, capsys):
    asked = [tiny, "--num-samples", 6, "--devices", 2, "--batch-size", 4, "--out", tmp_path]
    code, out, err = run_script(nll.main, asked, capsys)
    assert code == 0, err
    said, each = json.loads((tmp_path / "bits.json").read_text()), np.load(tmp_path / "terms.npz")
    assert said["num_samples"] == 6
    assert out.startswith(f"{each['bits'].mean():.4f} +- ")
    np.testing.assert_allclose(each["vb"].sum(1) + each["prior"], each["bits"], rtol=1e-4)
    assert said["bits_per_dim"] == pytest.approx(each["bits"].mean(), rel=1e-6)
    assert {name: value.shape for name, value in each.items()} == {
        **dict.fromkeys(("bits", "prior"), (6,)),
        **dict.fromkeys(("vb", "xstart_mse", "mse"), (6, 20)),
    }
    # Untold the label the network says something else, and a picture's bits do not depend on those beside it.
    code, _, err = run_script(nll.main, [*asked, "--unlabelled"], capsys)
    assert code == 2
    assert "is of another request; give another --out, or --overwrite" in err
    np.testing.assert_array_equal(np.load(tmp_path / "terms.npz")["mse"], each["mse"])
    code, _, err = run_script(nll.main, [*asked, "--unlabelled", "--overwrite"], capsys)
    assert code == 0, err
    assert not np.array_equal(np.load(tmp_path / "terms.npz")["mse"], each["mse"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--num-samples", 0], "--num-samples is 0; give a number from 1 to 2147483647"),
        (["--variance", "learned"], "this run's network did not learn a variance; use --variance small or large"),
        (["--by", "flow", "--no-clip"], "--clip has no effect with --by flow; leave it out"),
        (["--probes", 2], "--probes has no effect with --by bound; leave it out"),
        (["--by", "flow", "--steps", "ddim10"], "--steps is ddim10; with --by flow give a number of steps, such as 50"),
        (["--pictures", "nowhere.npz"], "cannot read nowhere.npz"),
    ],
)
def test_what_is_wrong_is_one_sentence(wrong, said, tiny, capsys):
    code, _, err = run_script(nll.main, [tiny, *wrong], capsys)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_pictures_of_another_size_or_without_labels_are_refused(tiny, tmp_path, capsys):
    grey = np.zeros((2, 9, 8, 1), np.uint8)
    images.save_npz(tmp_path / "wide.npz", grey)
    images.save_npz(tmp_path / "unlabelled.npz", grey[:, :8])
    code, _, err = run_script(nll.main, [tiny, "--pictures", tmp_path / "wide.npz"], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "has 2 of (9, 8, 1); the run draws (8, 8, 1)" in err
    code, _, err = run_script(nll.main, [tiny, "--pictures", tmp_path / "unlabelled.npz"], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no labels of the run's 10 classes" in err
