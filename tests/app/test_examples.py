"""The examples run, and what they draw is what they say."""

import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

from guided_jax.app import judge
from guided_jax.app.sample.guidances import GUIDANCES
from guided_jax.storage import images
from tests.scripts import ROOT


def load(name):
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def own_network():
    example = load("own_network")
    return example, example.make_run()


def labels_found(run, folder):
    """Which of the classes' means each sample is nearest to."""
    pictures, labels = images.load_npz(folder / "samples.npz")
    means = np.asarray(run.params("diffusion")["means"])
    x = images.from_uint8(pictures)
    return np.square(x[:, None] - means[None]).sum((2, 3, 4)).argmin(1), labels


def test_a_network_of_ones_own_is_guided(own_network, tmp_path):
    example, run = own_network
    found, labels = labels_found(run, example.draw(run, tmp_path, "classifier-free"))
    np.testing.assert_array_equal(found, labels)


def test_a_network_of_ones_own_is_diagnosed(own_network, tmp_path):
    example, run = own_network
    folder = example.draw(run, tmp_path, "classifier")
    with np.load(folder / "diagnostics.npz") as file:
        assert {"guidance", "score", "cosine", "log_prob", "clipped"} <= set(file.files)
        assert file["guidance"].shape == (16, 10)


NEEDS_MORE = {  # what the example has not
    "autoguidance": "a second run",
    "perturbed-attention": "attention",
    "smoothed-energy": "attention",
}
SETTINGS = {"negative": {"negative": 8}, "compose": {"also": (8,)}, "cfg++": {"sampler": "ddim"}}


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [name for name in GUIDANCES if name not in NEEDS_MORE])
def test_every_guidance_draws_from_a_network_of_ones_own(guidance, own_network, tmp_path):
    example, run = own_network
    measured = {"pigdm", "mmps", "dps", "repaint", "ddnm", "diffpir", "daps", "split-gibbs"}
    settings = dict(SETTINGS.get(guidance, {}))
    if guidance in measured:
        from guided_jax.app.sample.request import Measurement

        settings["measurement"] = Measurement(("held-out",), noise_std=0.1)
    folder = example.draw(run, tmp_path, guidance, **settings)
    pictures, _ = images.load_npz(folder / "samples.npz")
    assert pictures.std() > 20


@pytest.mark.slow  # sweeps are held by tests/app/test_sweep.py
def test_a_network_of_ones_own_is_swept(own_network, tmp_path):
    example, run = own_network
    judge.train(judge.Judging(tmp_path, out=tmp_path / "judge", num_steps=20, channels=(8, 8)), run)
    example.main(tmp_path, guidances=(), scales="0,2", count=40)
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [row["scale"] for row in found["rows"]] == [0, 0, 2, 2]
    assert (tmp_path / "sweep" / "sweep.html").exists()


def test_a_latent_model_draws_pictures(tmp_path):
    example = load("latent")
    run = example.make_run()
    example.main(tmp_path, guidances=("classifier-free",))
    pictures, labels = images.load_npz(tmp_path / "classifier-free" / "samples.npz")
    assert pictures.shape == (20, 8, 8, 1)
    params = run.params("diffusion")
    codes = jax.vmap(lambda x: run.model.encode(params, jax.random.key(0), x))(images.from_uint8(pictures))
    nearest = np.square(np.asarray(codes)[:, None] - np.asarray(params["means"])[None]).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.8


def test_a_guidance_of_ones_own_leads_where_it_should():
    assert "bright" not in GUIDANCES
    try:
        assert (load("own_guidance").main(500) > 0).mean() > 0.99
        assert "bright" in GUIDANCES
    finally:
        GUIDANCES.pop("bright", None)


def test_inpainting_of_normal_data_is_exact():
    samples, exact = load("posterior").main(4000)
    assert abs(float(samples[:, 0].mean()) - exact) < 0.02
    assert abs(float(samples[:, 1].std()) - 0.7) < 0.03
