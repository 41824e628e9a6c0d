"""FD-DINOv2 in the commands: beside other metrics or alone, in sweeps and in training, on small random weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from guided_jax import metrics
from guided_jax.app import cli
from guided_jax.app import metrics as metrics_command
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sweep
from guided_jax.app.sweep import evaluate
from guided_jax.app.train import sample_metrics
from guided_jax.metrics import feature_space, sets
from guided_jax.storage import images
from tests.golden import dino_reference as reference
from tests.scripts import run_script
from tests.untrained import make_judge

NAME = "dinov2 ViT-48/14"
PICTURES = np.random.default_rng(0).integers(0, 256, (30, 6, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the weights, a file of samples and one of a reference, and an untrained judge of digits."""
    place = tmp_path_factory.mktemp("dino")
    make_judge(place / "judge", (8, 8, 1))
    save_file(reference.recorded_weights("own_size"), place / "dino.safetensors")
    images.save_npz(place / "samples.npz", PICTURES[:14])
    images.save_npz(place / "reference.npz", PICTURES[14:])
    return place


@pytest.fixture(scope="module")
def distance(place):
    """The distance of samples and reference, by the library's functions."""
    extract = jax.jit(jax.vmap(feature_space.load_dino(place / "dino.safetensors").function))
    mine, other = (metrics.moments(np.asarray(extract(part).pool)) for part in (PICTURES[:14], PICTURES[14:]))
    return metrics.frechet_distance(*mine, *other)


def measure(place, capsys, reference, *arguments):
    """(exit code, stdout, stderr, the metrics of the JSON file) of the command with the weights."""
    out = place / "found.json"
    words = [
        place / "samples.npz",
        place / reference,
        "--dino",
        place / "dino.safetensors",
        "--out",
        out,
        "--overwrite",
    ]
    code = 0
    try:
        cli.script(metrics_command.main, [str(word) for word in (*words, *arguments)])
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr(), json.loads(out.read_text()) if code == 0 else None


def test_beside_other_metrics_and_again_from_statistics(place, distance, capsys):
    code, out, err, found = measure(
        place, capsys, "reference.npz", "--features", "pixels", "--save-statistics", place / "both.npz"
    )
    assert code == 0, err
    assert (found["features"], found["dino"], found["dimension"]) == ("pixels", NAME, 144)
    np.testing.assert_allclose(found["samples"]["fd_dinov2"], distance, rtol=1e-4)
    assert found["samples"]["fd"] != pytest.approx(distance, rel=0.1)
    assert f"FD-DINOv2 by {NAME}" in out
    assert f"| FD-DINOv2 | {found['samples']['fd_dinov2']:.4g} |" in out
    assert "14 pictures and 48 features" in out
    stored = metrics.load_statistics(place / "both.npz")
    assert (stored.features, stored.dino.features, stored.dino.size) == ("pixels", NAME, 16)
    metrics.save_statistics(place / "bare.npz", stored)
    code, _, err, again = measure(place, capsys, "bare.npz", "--features", "pixels")
    assert code == 0, err
    assert again["samples"] == pytest.approx({name: found["samples"][name] for name in ("fd", "fd_dinov2")}, rel=1e-9)
    # The same statistics, where all is measured by DINOv2.
    code, _, err, alone = measure(place, capsys, "bare.npz", "--features", "dino")
    assert code == 0, err
    assert alone["samples"] == pytest.approx({"fd_dinov2": found["samples"]["fd_dinov2"]}, rel=1e-9)


def test_alone(place, distance, capsys):
    """All metrics by DINOv2, where nothing else is given; the distance has one name."""
    code, out, err, found = measure(place, capsys, "reference.npz")
    assert code == 0, err
    assert (found["features"], found["dino"], found["dimension"]) == (NAME, None, 48)
    np.testing.assert_allclose(found["samples"]["fd_dinov2"], distance, rtol=1e-4)
    assert {*found["samples"]} == {"fd_dinov2", "kid", "kid_std", "precision", "recall", "density", "coverage"}
    assert "| KD-DINOv2 |" in out


def test_statistics_of_other_features_are_refused_before_pictures_are_read(place, capsys, monkeypatch):
    pixels = PICTURES[14:].reshape(16, -1) / 255
    metrics.save_statistics(place / "pixels.npz", metrics.Statistics(*metrics.moments(pixels), features="pixels"))
    monkeypatch.setattr(feature_space, "make_extractors", lambda *_: pytest.fail("pictures are read"))
    code, _, err, _ = measure(place, capsys, "pixels.npz", "--features", "pixels")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"has statistics of pixels features, and {NAME} features are measured" in err
    np.savez(place / "other.npz", weight=np.zeros(3))
    code, _, err, _ = measure(place, capsys, "reference.npz", "--dino", place / "other.npz")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "the weights are not those of a ViT-S, B or L of DINOv2" in err


def test_the_features_of_a_sweep(place, tiny):
    """Beside the judge's where there is one; without data, a judge and Inception alone."""
    run = runs.load(tiny)._replace(source=None)
    method, asked = Method(guidance="classifier"), Sweep(dino=place / "dino.safetensors")
    both = evaluate.choose_features(sample.Sampling(place, method, sweep=asked), run)
    assert (both.features is both.judge, both.dino.name) == (True, NAME)
    alone = evaluate.choose_features(sample.Sampling(place / "run", method, sweep=asked), run)
    assert (alone.name, alone.judge, alone.dino) == (NAME, None, None)


@pytest.mark.slow
def test_a_sweep_measures_it_beside_the_others(place, tiny, capsys):
    pictures = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), np.uint8)
    images.save_npz(place / "digits.npz", pictures)
    words = [tiny, "--guidance", "classifier-free", "--steps", 2, "--sweep", "scale=2", "--sweep-seeds", 1]
    words += ["--num-samples", 8, "--reference", place / "digits.npz", "--out", place / "sweep"]
    words += ["--judge", place / "judge", "--dino", place / "dino.safetensors"]
    code, out, err = run_script(sample.main, words, capsys)
    assert code == 0, err
    found = json.loads((place / "sweep" / "sweep.json").read_text())
    assert found["dino"] == NAME
    drawn = sets.from_file(place / "sweep" / "scale-2" / "seed-0" / "samples.npz")
    extract = jax.jit(jax.vmap(feature_space.load_dino(place / "dino.safetensors").function))
    moments = [metrics.moments(np.asarray(extract(part).pool)) for part in (next(drawn.chunks(8)), pictures)]
    np.testing.assert_allclose(
        found["rows"][0]["fd_dinov2"], metrics.frechet_distance(*moments[0], *moments[1]), rtol=1e-3
    )
    assert {"fd", "accuracy", "fd_dinov2"} <= {*found["real"][0]}
    assert "| FD-DINOv2 |" in out
    assert "FD-DINOv2 is least at scale" in (place / "sweep" / "sweep.html").read_text()


def test_the_names_of_the_metrics_in_training(place, tiny):
    """Alone in place of pixels, and beside the features of a judge."""
    run = runs.load(tiny)
    source = run.experiment.data.make(held_out=True)

    def names(**settings):
        diffusion = dataclasses.replace(run.experiment.diffusion, measure_every=2, measure_samples=20, **settings)
        changed = run._replace(experiment=dataclasses.replace(run.experiment, diffusion=diffusion))
        return {name.removeprefix("samples_") for name in sample_metrics.make(changed, lambda: source).names}

    others = {"kid", "precision", "recall", "density", "coverage"}
    dino = place / "dino.safetensors"
    assert names(measure_dino=dino) == {"fd_dinov2", *others}
    assert names(measure_dino=dino, measure_judge=place / "judge") == {
        *("fd", "fd_dinov2", "accuracy", "inception_score"),
        *others,
    }
