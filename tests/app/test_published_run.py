"""`guided-jax convert` of a published latent model, and what the commands draw from its run."""

import json

import jax
import numpy as np
import pytest

from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.convert import command as convert
from guided_jax.app.sample import checks, request, samplers
from guided_jax.app.sample import command as sample
from guided_jax.storage import images
from tests import latent_golden as golden
from tests import pickle_writer as writer


@pytest.fixture(scope="module")
def run(published):
    """The tiny DiT of the golden folder, converted."""
    return published


FREE = ("--guidance", "classifier-free+channels")


def draw(run, out, *words):
    """Draw four small samples by the command line and return them."""
    line = [run, "--num-samples", "4", "--batch-size", "4", "--devices", "1", "--out", out, *words]
    cli.script(sample.main, [str(word) for word in line])
    return images.load_npz(out / "samples.npz")


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """Samples without guidance: one of each class, in turn."""
    return draw(run, tmp_path_factory.mktemp("plain"), "--balanced", "--steps", "2")


def test_balanced_samples_go_through_the_classes(plain):
    assert list(plain[1]) == [0, 1, 2, 3]


def test_the_run_draws_pictures_through_its_decoder(run, tmp_path, plain):
    options = ("--guidance", "classifier-free+channels", "--scale", "4", "--labels", "7", "207", "--steps", "2")
    drawn, labels = draw(run, tmp_path, *options)
    assert drawn.shape == (4, 16, 16, 3)
    assert list(labels) == [7, 207, 7, 207]
    assert drawn.std() > 10
    assert (drawn != plain[0]).any()


def test_its_facts_and_its_model(run):
    found = runs.load(run)
    assert (found.facts.image_shape, found.facts.num_classes, found.model.shape) == ((16, 16, 3), 1000, (8, 8, 4))
    assert not found.bounded
    assert found.trained("last") == {"diffusion": 1, "classifier": None}
    assert runs.preset(run)[:2] == ("--guidance", "classifier-free+channels")


def test_the_preset_comes_before_what_is_given(run):
    options = sample.parse([str(run), "--preset", "--scale", "4", "--steps", "6"])
    assert (options.scale, options.method.steps, options.method.sampler) == ((4.0,), "6", "ddpm")
    assert options.method.guidance == "classifier-free+channels"
    assert request.recorded(options) == request.recorded(
        sample.parse([str(run), *runs.preset(run), "--scale", "4", "--steps", "6"])
    )


def test_what_another_guidance_ignores_of_a_preset_is_left_out(run, tmp_path, capsys):
    """But not what was given beside it."""
    preset = ["--guidance", "classifier-free+interval", "--scale", "1.8", "--interval-high", "2.3", "--sampler", "heun"]
    found = json.loads((run / "config.json").read_text())
    found["published"]["preset"] = preset
    (tmp_path / "config.json").write_text(json.dumps(found))
    options = sample.parse([str(tmp_path), "--preset", "--guidance", "none", "--labels", "3"])
    assert (options.scale, options.method.interval_high, options.method.sampler) == ((1.0,), 5.0, "heun")
    checks.check_readers(options)
    kept = sample.parse([str(tmp_path), "--preset", "--labels", "3"])
    assert (kept.scale, kept.method.interval_high) == ((1.8,), 2.3)
    for words in (["--scale", "3"], ["--interval-low", "1"]):
        with pytest.raises(ValueError, match=f"{words[0]} has no effect"):
            checks.check_readers(sample.parse([str(tmp_path), "--preset", "--guidance", "none", *words]))


def test_chunks_of_the_decoder_change_nothing(run, tmp_path, monkeypatch, plain):
    load = runs.load
    monkeypatch.setattr(runs, "load", lambda *given: load(*given)._replace(decode_size=3))
    drawn, _ = draw(run, tmp_path, "--balanced", "--steps", "2")
    assert np.abs(drawn.astype(int) - plain[0]).max() <= 1


@pytest.mark.slow
def test_tiles_of_the_decoder_change_little(run, tmp_path, plain):
    drawn, _ = draw(run, tmp_path, "--balanced", "--steps", "2", "--decode-tile", "6")
    assert (drawn != plain[0]).any()
    assert np.abs(drawn.astype(int) - plain[0]).mean() < 0.2 * plain[0].std()


WORSE = ("perturbed-attention", "smoothed-energy", "skip-layer", "internal", "self-attention")


@pytest.mark.parametrize(
    "guidance", [pytest.param(n, marks=() if n == "skip-layer" else pytest.mark.slow) for n in WORSE]
)
def test_guidance_by_a_worse_network(run, tmp_path, guidance, plain):
    drawn, _ = draw(run, tmp_path, "--guidance", guidance, "--scale", "3", "--balanced", "--steps", "2")
    assert (drawn != plain[0]).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "1000"], "label 1000 is out of range"),
        (["--guidance", "perturbed-attention", "--perturb-blocks", "9"], "names '9', and this network takes blocks_0"),
        (["--guidance", "skip-layer", "--skip-blocks", "middle"], "--skip-blocks names 'middle'"),
        (["--guidance", "classifier-free", "--guided-channels", "2"], "no effect"),
        (["--guidance", "classifier-free+channels", "--guided-channels", "9"], "is 9, and x has 4 channels"),
        (["--guidance", "classifier-free+dynamic"], "latents"),
        (["--clip-base"], "latents"),
        (["--guidance", "classifier"], "no classifier"),
        (["--balanced", "--labels", "3"], "--balanced stands in the place"),
        (["--checkpoint", "best"], "best"),
    ],
)
def test_wrong_requests_are_one_sentence(run, tmp_path, words, message, capsys):
    line = [str(run), "--num-samples", "1", "--steps", "1", "--out", str(tmp_path / "out"), *words]
    with pytest.raises(SystemExit) as ended:
        cli.script(sample.main, line)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--family", "dit"], "nowhere"),
        ([golden.CHECKPOINT, "--model", "64x64_diffusion"], "is none of .npz"),
        ([golden.CHECKPOINT / "vae"], "model_index.json"),
        ([golden.CHECKPOINT, "--family", "sit"], "leave out"),
        ([golden.CHECKPOINT / "vae" / "diffusion_pytorch_model.safetensors"], "holds no DiT, SiT or Stable Diffusion"),
        (
            [golden.CHECKPOINT / "transformer" / "diffusion_pytorch_model.safetensors"],
            "a part of a folder of diffusers",
        ),
        ([golden.CHECKPOINT, "--variant", "fp16"], "no weights of variant 'fp16'"),
        ([golden.CHECKPOINT, "--snapshots", "a.pkl"], "--snapshots has no effect on anything but an EDM2"),
    ],
)
def test_wrong_conversions_write_nothing(tmp_path, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.script(convert.main, [*map(str, words), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_converted_over(run, capsys):
    with pytest.raises(SystemExit):
        cli.script(convert.main, [str(golden.CHECKPOINT), "--out", str(run)])
    assert "holds a run already" in capsys.readouterr().err


def test_a_damaged_config_is_named(run, tmp_path, capsys):
    saved = json.loads((run / "config.json").read_text())
    for name, value in (("dtype", "int8"), ("preset", [1]), ("description", {})):
        body = {**saved, "published": {**saved["published"], name: value}}
        (tmp_path / "config.json").write_text(json.dumps(body))
        with pytest.raises(ValueError, match="is damaged"):
            runs.load(tmp_path)


@pytest.fixture(scope="module")
def edm2(tmp_path_factory):
    """Two networks of EDM2, the second another one's average, as NVIDIA publishes them, and the folder of a decoder."""
    folder = tmp_path_factory.mktemp("edm2")
    meta, _, groups = golden.read("edm2_cond_logvar")
    worse = {key: array * np.float32(0.9) + np.float32(0.01) for key, array in groups["sd"].items()}
    for name, state in (("network-snapshot-0000100-0.050", groups["sd"]), ("network-snapshot-0000100-0.100", worse)):
        (folder / f"{name}.pkl").write_bytes(writer.snapshot(writer.network(state, meta["config"])))
        line = [folder / f"{name}.pkl", "--autoencoder", golden.CHECKPOINT / "vae", "--out", folder / name[-5:]]
        cli.script(convert.main, [str(word) for word in line])
    return folder


@pytest.mark.slow
def test_autoguidance_of_two_published_networks(edm2, tmp_path):
    """The preset of EDM2 beside a worse network of the same size; the decoder makes 32x32 pictures of 16x16 latents."""
    words = ("--preset", "--labels", "2", "--steps", "2", "--guidance", "autoguidance", "--bad", edm2 / "0.100")
    drawn, labels = draw(edm2 / "0.050", tmp_path, *words, "--scale", "2")
    assert drawn.shape == (4, 32, 32, 3)
    assert list(labels) == [2] * 4
    assert drawn.std() > 5


def test_an_average_of_another_length(edm2, tmp_path, capsys):
    files = sorted(edm2.glob("*.pkl"))
    line = [files[0], "--snapshots", files[1], "--sigma-rel", "0.097", "--out", tmp_path / "run"]
    cli.script(convert.main, [str(word) for word in line])
    assert "this run draws latents" in capsys.readouterr().err
    made, first = runs.load(tmp_path / "run"), runs.load(edm2 / "0.050")
    assert made.facts.kind == "arrays"  # no decoder was named: it draws latents
    pairs = zip(*(jax.tree.leaves(each.params("diffusion")["network"]) for each in (made, first)), strict=True)
    assert any(np.abs(one - other).max() > 1e-4 for one, other in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_sampler_draws_latents(run, tmp_path, name):
    drawn, _ = draw(run, tmp_path, "--sampler", name, "--steps", "3", "--labels", "5", "--scale", "2", *FREE)
    assert drawn.std() > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["classifier-free+interval+rescale+channels+ramp", "--scale", "3"],
        ["cfg++", "--scale", "0.6"],
        ["projected+ramp", "--scale", "3"],
        ["zero-star+channels+anneal", "--scale", "3"],
        ["adaptive+ramp", "--scale", "3", "--stop-cosine", "0.5"],
        ["frequency-decoupled+interval", "--scale", "3", "--coarse-scales", "1", "2"],
        ["independent", "--scale", "3"],
        ["negative", "--negative", "8", "--scale", "3"],
        ["compose", "--also", "8", "--also-scale", "-1", "--scale", "2"],
        ["autoguidance", "--bad", "RUN", "--scale", "2"],
    ],
    ids=lambda words: words[0],
)
def test_every_guidance_draws_latents(run, tmp_path, words):
    words = [run if word == "RUN" else word for word in words]
    drawn, _ = draw(run, tmp_path, "--guidance", *words, "--labels", "5", "--steps", "3")
    assert drawn.std() > 5


@pytest.mark.slow
def test_pictures_are_encoded_a_few_at_once_as_one_by_one(run, plain, tmp_path, monkeypatch):
    """--image: the chunks of the encoder, before the steps, and one program of an example that encodes and decodes."""
    images.save_npz(tmp_path / "start.npz", *plain)
    words = ("--image", tmp_path / "start.npz", "--steps", "4", "--strength", "0.5", "--labels", "5")
    chunks, _ = draw(run, tmp_path / "chunks", *words)
    load = runs.load
    monkeypatch.setattr(runs, "load", lambda *given: load(*given)._replace(decode_size=None))
    whole, _ = draw(run, tmp_path / "whole", *words)
    assert np.abs(chunks.astype(int) - whole).max() <= 1
    assert (chunks != plain[0]).any()
