"""Guidance of a run of latents that sees latents or, through the decoder, pixels: classifiers and measurements."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import operators, schedule
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw, inverse
from guided_jax.app.sample.parts import Parts, Pictures
from guided_jax.app.sample.request import Measurement, Method
from guided_jax.metrics import judge
from guided_jax.models.judge import Judge
from guided_jax.storage import checkpoint, images

SHAPE = (16, 16, 3)
TRUTH = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with true pictures, masks, and judges of these pictures and of others."""
    place = tmp_path_factory.mktemp("files")
    images.save_npz(place / "true.npz", TRUTH)
    masks = np.zeros((2, 16, 16, 1), np.uint8)
    masks[0, 4:12, 4:12], masks[1, :, 1::2] = 255, 255
    images.save_npz(place / "box.npz", masks[:1])
    images.save_npz(place / "between.npz", masks[1:])
    make_judge(place / "judge", 1000, SHAPE)
    make_judge(place / "of-ten", 10, SHAPE)
    return place


def make_judge(folder, classes, shape):
    """Write a judge of random weights."""
    network = Judge(classes, (8, 8))
    params = jax.jit(network.init)(jax.random.key(1), jnp.zeros((1, *shape)))
    judge.describe(folder, network, shape, trained=1)
    with checkpoint.opened(folder / judge.CHECKPOINTS) as saved:
        checkpoint.save(saved, 1, {"ema": params})


def sampled(run, out, *words):
    """Draw two samples in three steps."""
    line = [run, "--num-samples", "2", "--batch-size", "2", "--devices", "1", "--steps", "3", "--labels", "7"]
    cli.script(sample.main, [str(word) for word in (*line, "--out", out, *words)])
    return images.load_npz(out / "samples.npz")[0]


@pytest.fixture(scope="module")
def plain(published, tmp_path_factory):
    """Samples without guidance, by a sampler of its name."""
    out = tmp_path_factory.mktemp("plain")
    return functools.cache(lambda name: sampled(published, out / name, "--sampler", name))


MEASURED = {
    "pigdm": ("--mask", "box.npz", "--noise-std", "0.1"),
    "mmps": ("--mask", "box.npz", "--noise-std", "0.1", "--iterations", "2"),
    "dps": ("--operator", "super-resolution"),
    "repaint": ("--hole", "right", "--repeats", "2"),
    "daps": ("--mask", "box.npz", "--noise-std", "0.1", "--calls", "2", "--iterations", "3"),
    "ddnm": ("--hole", "right"),
}


@pytest.mark.slow  # in the fast suite pixels are seen through the decoder by a measurement, below
@pytest.mark.parametrize("guidance", ["universal", "off-the-shelf"])
def test_a_judge_of_pictures_guides_latents(published, files, plain, tmp_path, guidance):
    words = ("--guidance", guidance, "--clean-classifier", files / "judge", "--in", "pixels", "--scale", "50")
    drawn = sampled(published, tmp_path, *words)
    assert (drawn != plain("dpm++")).any()
    recorded = json.loads((tmp_path / "samples.json").read_text())
    assert recorded["method"]["space"] == "pixels"


PAIRS = [(name, space) for name in MEASURED for space in ("pixels", "latents") if (name, space) != ("ddnm", "pixels")]


@pytest.mark.slow  # in the fast suite what it measures, below, and samples of this run: test_published_run.py
@pytest.mark.parametrize(("guidance", "space"), PAIRS)
def test_a_measurement_of_either_space_guides(published, files, plain, tmp_path, guidance, space):
    options = [files / word if word.endswith(".npz") else word for word in MEASURED[guidance]]
    words = ("--guidance", guidance, "--measure", files / "true.npz", *options, "--in", space)
    drawn = sampled(published, tmp_path, *words)
    assert (drawn != plain("ddim")).any()
    assert (tmp_path / "measured.png").exists()
    if guidance == "pigdm":
        recorded = json.loads((tmp_path / "samples.json").read_text())["method"]["measurement"]
        assert recorded["data_std"] == {"pixels": 0.5, "latents": 1.0}[space]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["universal"], "no classifier of noisy examples; give one of clean pictures by --clean-classifier"),
        (["universal", "--in", "pixels"], "needs a classifier of pictures; name one by --clean-classifier"),
        (["universal", "--clean-classifier", "judge"], "works on latents; add --in pixels"),
        (["off-the-shelf", "--clean-classifier", "judge", "--in", "latents"], "works on latents; add --in pixels"),
        (["universal", "--clean-classifier", "of-ten", "--in", "pixels"], "of 10 classes, and the run draws"),
        (["pigdm", "--measure", "true.npz", "--hole", "0:16,1:2"], "--hole 0:16,1:2 hides no whole latent"),
        (["pigdm", "--measure", "true.npz", "--mask", "between.npz"], "--mask hides no whole latent"),
        (["dps", "--measure", "true.npz", "--operator", "super-resolution", "--factor", "16"], "latents of 8x8"),
        (["ddnm", "--measure", "true.npz", "--in", "pixels"], "ddnm cannot see pixels through a decoder"),
        (
            ["dps", "--measure", "true.npz", "--operator", "jpeg"],
            "--operator jpeg is of pixels; measure them by --in pixels",
        ),
        (["pigdm", "--in", "paint", "--measure", "true.npz"], "paint"),
    ],
)
def test_wrong_requests_are_one_sentence_and_write_nothing(published, files, tmp_path, words, message, capsys):
    words = [files / word if (files / word).exists() else word for word in words]
    with pytest.raises(SystemExit) as ended:
        sampled(published, tmp_path / "out", "--guidance", *words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_what_is_measured_of_latents_is_the_encoding_at_every_fth_pixel(published, files):
    """y = A z + noise, z as the model encodes the true picture, the mask that of every second pixel from the top left."""
    run = runs.load(published)
    settings = Measurement((str(files / "true.npz"),), mask=(str(files / "box.npz"),), noise_std=0.0)
    request = Method("pigdm", space="latents", measurement=settings)
    y, observed, truth = map(jnp.asarray, inverse.make_measure(request, run, 0)(np.arange(1)))
    np.testing.assert_allclose(truth, images.from_uint8(TRUTH[:1]), atol=1e-6)
    np.testing.assert_array_equal(y[0], truth[0] * observed[0])  # what measured.png shows
    z = jax.random.normal(jax.random.key(0), run.model.shape)
    pictures = Pictures(y=y[0], observed=observed[0], truth=truth[0])
    parts = draw._measured(draw._common(run, request, labelled=True), pictures, z, jax.random.key(1))
    known = np.ones((8, 8, 1))
    known[2:6, 2:6] = 0
    np.testing.assert_array_equal(parts.y, z * known)
    noisy = parts._replace(
        request=dataclasses.replace(request, measurement=dataclasses.replace(settings, noise_std=0.5))
    )
    added = draw._measured(noisy, Pictures(observed=observed[0]), z, jax.random.key(1)).y - parts.y
    assert (added[2:6, 2:6] == 0).all()
    assert 0.3 < float(added[known[..., 0] == 1].std()) < 0.7


def test_pixels_are_measured_through_the_decoder(published):
    """The forward of the operator is A decode(x), and its solve has the share of the variance that pixels have."""
    run = runs.load(published)
    params = {"diffusion": run.params("diffusion")}
    request = Method("pigdm", space="pixels", measurement=Measurement(data_std=0.4))
    parts = Parts(run, request, params, operator=operators.average_pool(4))
    x_0, y = jax.random.normal(jax.random.key(0), run.model.shape), jnp.ones((4, 4, 3))
    pool = operators.average_pool(4)

    @jax.jit
    def both(x_0):
        return parts.measurement.forward(x_0), pool.forward(run.model.decode(params["diffusion"], x_0))

    np.testing.assert_allclose(*both(x_0), atol=1e-5)
    np.testing.assert_allclose(parts.measurement.solve(y, 0.7, 0.1), pool.solve(y, 0.7 * 0.4**2, 0.1), rtol=1e-5)
    latents = Parts(run, dataclasses.replace(request, space=None), params, operator=pool)
    np.testing.assert_allclose(latents.measurement.forward(x_0), pool.forward(x_0), atol=1e-6)


def test_the_mask_is_where_the_network_attends_more_than_on_average(published):
    run = runs.load(published)
    parts = Parts(run, Method("self-attention"), {"diffusion": run.params("diffusion")}, label=7)
    level, x_t = schedule.at(run.model.levels, 500), jax.random.normal(jax.random.key(0), run.model.shape)
    unlabelled = parts._replace(labelled=False)

    @jax.jit
    def seen(x_t):
        """The attention with the label and with the null label, and where it is above the mean."""
        masses = [run.attention(parts.params["diffusion"], x_t, run.model.time(level), label) for label in (7, 1000)]
        return masses, [each.attended(x_t, level) for each in (parts, unlabelled)]

    (mass, null), (attended, without) = seen(x_t)
    np.testing.assert_allclose(mass.mean(), 1, rtol=1e-5)
    np.testing.assert_array_equal(attended, mass > 1)
    np.testing.assert_array_equal(without, null > 1)
    assert (null != mass).any()


@pytest.mark.slow  # in the fast suite the mask itself, above
def test_a_mask_of_attention_limits_the_blur(published, tmp_path, plain):
    words = ("--guidance", "self-attention", "--scale", "3", "--blur", "2")
    everywhere, masked = (
        sampled(published, tmp_path / name, *words, *more) for name, more in (("a", ()), ("b", ("--attention-mask",)))
    )
    assert (masked != everywhere).any()
    assert (masked != plain("dpm++")).any()
