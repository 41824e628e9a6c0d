"""benchmarks.restoration: its numbers on laws that are known, and its tables of an untrained run, drawn once."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import restoration, restoration_judge, restoration_methods, restoration_pages
from guided_jax.app import settings as schema
from tests.kinds import noise
from tests.untrained import TINY, make_judge, make_untrained

RNG = np.random.default_rng(0)
LAWS = {
    "normal": lambda shape: 0.3 * RNG.standard_normal(shape),
    "mostly black": lambda shape: np.where(RNG.random(shape) < 0.8, -1.0, 0.5 * RNG.standard_normal(shape)),
    "three values": lambda shape: RNG.integers(0, 3, shape) - 1.0,
}


@pytest.mark.parametrize("law", LAWS)
def test_the_coverage_of_exact_samples_is_nine_tenths(law):
    """Whatever the law; of samples that vary too little or lie beside the truth it is less."""
    *drawn, truth = LAWS[law]((20, 600, 4, 4, 1))
    drawn = np.stack(drawn)
    assert abs(restoration_judge.coverage(drawn, truth) - 0.9) < 0.01
    assert restoration_judge.coverage(0.3 * drawn - 0.7, truth) < 0.8
    hidden = np.arange(4)[:, None, None] > 1  # and what is seen does not count
    drawn[:, :, :2] = -1
    assert abs(restoration_judge.coverage(drawn, truth, hidden) - 0.9) < 0.015


def test_the_ranked_score_is_least_for_the_law_of_the_truth():
    """s / sqrt(pi) for samples of the same normal law of deviation s; without bias for as few as two."""
    for count in (2, 19):
        drawn, truth = 0.2 * RNG.standard_normal((count, 3000, 2, 2, 1)), 0.2 * RNG.standard_normal((3000, 2, 2, 1))
        np.testing.assert_allclose(restoration_judge.ranked_score(drawn, truth), 0.2 / np.sqrt(np.pi), rtol=0.03)
    wrong = [restoration_judge.ranked_score(each, truth) for each in (0.5 * drawn, 2 * drawn, drawn + 0.1)]
    assert min(wrong) > 1.03 * restoration_judge.ranked_score(drawn, truth)
    want = np.mean([stats.wasserstein_distance([0.3], each.ravel()) for each in drawn[:, :1, 0, 0].T])
    point = restoration_judge.ranked_score(np.full_like(drawn[:, :1], 0.3), np.full_like(truth[:1], 0.1))
    np.testing.assert_allclose(point, 0.2, rtol=1e-6)  # of samples that do not vary, the distance
    assert want > 0


def test_the_mean_of_exact_samples_is_nearer_to_the_truth_than_one():
    drawn, truth = 0.2 * RNG.standard_normal((19, 400, 4, 4, 1)), 0.2 * RNG.standard_normal((400, 4, 4, 1))
    gain = restoration_judge.psnr(drawn.mean(0), truth) - restoration_judge.psnr(drawn, truth[None])
    np.testing.assert_allclose(gain, 10 * np.log10(2 / (1 + 1 / 19)), atol=0.1)


def test_the_norm_of_a_measurement():
    for make, want in zip(restoration_methods.MEASUREMENTS.values(), (1.0, 0.5, 1.0), strict=True):
        found = restoration.operator_norm(make((8, 8, 1)).operator, (8, 8, 1))
        np.testing.assert_allclose(found, want, rtol=0.05)


@pytest.mark.slow
def test_every_method_is_measured_once(tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "set.npz", images=noise(200, 8, 8, 1), labels=np.arange(200) % 10)
    network = schema.UNet(**TINY)
    experiment = schema.Experiment(
        data=schema.Data(name=f"npz:{tmp_path / 'set.npz'}"),
        diffusion=schema.Diffusion(network=network),
        classifier=schema.Classifier(num_steps=0),
    )
    make_untrained(tmp_path / "run", experiment)
    line = [str(tmp_path / "run"), "--passes", "20", "--seeds", "0", "1", "--pictures", "2"]
    line += ["--measurements", "right half hidden"]
    with pytest.raises(ValueError, match="is no trained judge; make one: guided-jax judge"):
        restoration.main(line)
    make_judge(tmp_path / "run" / "judge", (8, 8, 1))
    monkeypatch.setattr(restoration_pages, "DOCS", tmp_path)
    monkeypatch.setattr(restoration_pages, "PAGE", tmp_path / "page.md")
    (tmp_path / "images").mkdir()
    (tmp_path / "page.md").write_text("<!-- measured: restoration, run -->\n<!-- end -->\n")
    restoration.main([*line, "--page"])
    first = capsys.readouterr().out
    table = (tmp_path / "page.md").read_text()
    rows = len(restoration_methods.METHODS)
    assert len(table.splitlines()) == 3 + rows + 1 + 3  # marks, head, rows, the true pictures
    assert "nan" not in table
    assert (tmp_path / "images" / "restoration-run.png").is_file()
    monkeypatch.setattr(restoration, "make_program", None)
    restoration.main(line)
    assert capsys.readouterr().out.splitlines()[-rows:] == first.splitlines()[-rows:]


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="there is no method 'mmps'; there is none, "):
        restoration.main([str(tmp_path), "--methods", "mmps"])
