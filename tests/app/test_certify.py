"""`guided-jax certify`: what is drawn exactly is certified, and what is not is not."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import certificate, guidance, reverse, schedule
from guided_jax.app.certify import command as certify
from guided_jax.app.sample.request import Method
from guided_jax.app.sample.sections import Measurement
from tests.scripts import run_script

LEVELS = schedule.respace(schedule.cosine(1000), 60)
NORMAL = certificate.law(lambda x: -jnp.sum(jnp.square((x - jnp.array([0.5, -1.0])) / jnp.array([0.4, 0.7]))) / 2)


def run(*words):
    options = certify.complete(certify.cli.parse(certify.Certify, "guided-jax certify", [str(word) for word in words]))
    one, claims = certify.prepare(options)
    samples = certify.sample(one, options.count, options.seed)
    return {
        name: certificate.compare(samples, certificate.law(each), certificate.MODES) for name, each in claims.items()
    }


def test_a_law_on_the_grid_is_that_of_its_formula():
    mean, width = NORMAL.moments()
    np.testing.assert_allclose(mean, [0.5, -1.0], atol=1e-6)
    np.testing.assert_allclose(width**2, 0.16 + 0.49, rtol=1e-4)
    points = NORMAL.sample(20000, 3)
    np.testing.assert_allclose(points.std(0), [0.4, 0.7], rtol=0.02)
    # The set of highest density of a normal law is |z|^2 < -2 log(1 - 0.9).
    z = (points - mean) / [0.4, 0.7]
    inside = np.square(z).sum(1) < -2 * np.log(0.1)
    assert (inside == NORMAL.covers(points)).mean() > 0.995
    assert abs(NORMAL.covers(points).mean() - 0.9) < 0.01


@pytest.mark.parametrize(("label", "scale"), [(0, 1.0), (1, 3.0)])
def test_a_tilted_law_is_the_product_of_powers(label, scale):
    """At two points the difference of the logarithms is that of the mixture's own densities and classifier."""
    x = jnp.array([[0.3, 0.9], [-1.0, 0.4]])
    clean = schedule.at(LEVELS, 0)
    of_label, every = certificate.PLANE.log_prob(label), certificate.PLANE.log_density()
    expected = [scale * of_label(each, clean) + every(each, clean) for each in x]  # p(x) p(label | x)^scale
    found = [certificate.tilted(label, scale)(each) for each in x]
    np.testing.assert_allclose(found[0] - found[1], expected[0] - expected[1], rtol=1e-4)


def test_exact_samples_hold_and_others_do_not():
    """Each number against what it is by construction: the shift over the width, the factor, the mass that was moved."""
    exact = NORMAL.sample(2000, 99)
    modes = np.array([[0.5, 0.0], [0.5, -2.0], [9.0, 9.0]])
    assert certificate.compare(exact, NORMAL, modes).holds
    for name, wrong, value in (
        ("bias", exact + 0.4, np.sqrt(2 * 0.4**2 / (0.4**2 + 0.7**2))),
        ("spread", 1.2 * exact - 0.2 * exact.mean(0), 1.2),
        ("weights", np.abs(exact), 0.5),
        ("coverage", 0.5 * (exact + exact.mean(0)), 1 - 0.1**4),  # |z|^2 < 4 (-2 log 0.1)
    ):
        finding = certificate.compare(wrong, NORMAL, modes, repeats=8)
        assert not finding.holds
        assert {name, "sliced"} <= set(finding.beyond), (name, finding.beyond)
        assert ("kernel" in finding.beyond) == (name != "spread")  # which the kernel sees least
        np.testing.assert_allclose(getattr(finding.found, name), value, atol=0.05)
        if name == "bias":
            np.testing.assert_allclose(finding.found.spread, 1, atol=0.05)  # around the samples' own mean
    with pytest.raises(ValueError, match="1 of 2 samples are not finite"):
        certificate.compare(np.array([[0.0, np.nan], [0.0, 0.0]]), NORMAL, modes)


def test_a_law_beyond_the_grid_is_refused():
    with pytest.raises(ValueError, match="reaches beyond the square of side 10"):
        certificate.law(lambda x: -jnp.sum(jnp.square(x)) / 50)
    with pytest.raises(ValueError, match="is not finite"):
        certificate.law(lambda x: x[0] * jnp.nan)


@pytest.mark.slow
def test_a_posterior_and_a_conditional_law():
    """DDPM draws the law of the label, particles alone the tilted one, and mmps comes near the posterior."""
    plain = run("--label", 1, "--sampler", "ddpm", "--steps", 200)
    assert plain["p(x | 1)"].holds
    tilted = run("--guidance", "classifier-free", "--scale", 3, "--sampler", "ddim", "--steps", 60)
    assert list(tilted) == ["p(x)^-2 p(x | 0)^3", "p(x | 0)"]
    assert not tilted["p(x)^-2 p(x | 0)^3"].holds
    weighted = run(
        *("--guidance", "classifier-free", "--scale", 3, "--particles", 32),
        *("--sampler", "ddpm", "--variance", "large", "--steps", 60),
    )["p(x)^-2 p(x | 0)^3"]
    assert weighted.holds
    assert weighted.found.sliced < 0.5 * tilted["p(x)^-2 p(x | 0)^3"].found.sliced
    measured = ("--noise-std", 0.5, "--sampler", "ddim", "--eta", 1, "--steps", 60)
    options = certify.complete(certify.Certify(Method("mmps", measurement=Measurement(noise_std=0.5))))
    (posterior,) = (certificate.law(each) for each in certify.claims_of(options).values())
    without = certificate.law(certificate.tilted(0, 1.0)).sample(2000, 5)
    unguided = certificate.compare(without, posterior, certificate.MODES)
    (found,) = run("--guidance", "mmps", *measured).values()
    assert found.found.sliced < 0.5 * unguided.found.sliced


@pytest.mark.slow
def test_the_conditional_model_comes_near_the_law_of_its_label():
    """`certify` gives the guide the model of the label first, and each sample noise of its own."""
    found = certificate.certify(lambda c, u: c, reverse.ddpm(), LEVELS, label=1, count=500).found
    assert found.bias < 0.1
    assert found.weights < 0.1
    np.testing.assert_allclose(found.spread, 1, atol=0.1)


def test_the_command_draws_what_the_library_draws(tmp_path, capsys):
    """A function of one's own is the same guidance as that of its name, and the certificate is written once."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from guided_jax import guidance\n\n\ndef guide(conditional, unconditional, scale):\n"
        "    return guidance.classifier_free(conditional, unconditional, scale)\n"
    )
    words = ["--scale", "2", "--sampler", "ddim", "--steps", "20", "--count", "300", "--out"]
    code, out, err = run_script(certify.main, ["--guidance", f"{mine}:guide", *words, tmp_path / "own"], capsys)
    assert code == 0, err
    assert "not as claimed" in out
    said = json.loads((tmp_path / "own" / "certificate.json").read_text())
    rows = list(csv.DictReader((tmp_path / "own" / "certificate.csv").open()))
    assert len(rows) == len(said["numbers"]) == 2 * len(certificate.Certificate._fields)
    assert (tmp_path / "own" / "certificate.png").stat().st_size > 1000

    direct = certificate.certify(
        lambda c, u: guidance.classifier_free(c, u, 2.0),
        reverse.ddim(),
        schedule.respace(schedule.cosine(1000), 20),
        log_density=certificate.tilted(0, 2.0),
        count=300,
    )
    np.testing.assert_allclose(direct.found, [row["samples"] for row in said["numbers"][:6]], rtol=1e-3, atol=1e-4)
    code, _, err = run_script(certify.main, ["--guidance", "cfg++", *words, tmp_path / "own"], capsys)
    assert (code, "is of another request; give another --out, or --overwrite" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "2"), "--label is 2; the mixture has the classes 0 and 1"),
        (("--guidance", "mmps", "--operator", "blur"), "measures the first of two coordinates"),
        (
            ("--guidance", "universal", "--criterion", "colour:9"),
            "--criterion is for pictures, and a certificate draws",
        ),
        (
            ("--guidance", "autoguidance", "--bad", "runs/other"),
            "--bad is for pictures, and a certificate draws points",
        ),
        (("--guidance", "nothing"), "there is no guidance 'nothing'"),
        (("--guidance", "missing.py:guide"), "there is no file missing.py; give --guidance FILE.py:function"),
        (("--guidance", "skip-layer"), "this network has no --skip-blocks"),
        (("--rescale-mix", "0.5"), "--rescale-mix has no effect here"),
    ],
)
def test_bad_requests(words, said, tmp_path, capsys):
    code, _, err = run_script(certify.main, [*words, "--out", tmp_path / "out"], capsys)
    assert (code, said in err) == (2, True), err
    assert not (tmp_path / "out").exists()
