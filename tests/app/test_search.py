"""guided-jax sweep --search: the beam, the score, and the command of its last line."""

import json
import math
import shlex

import numpy as np
import pytest

from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw
from guided_jax.app.sweep import command as sweep
from guided_jax.app.sweep import search
from guided_jax.storage import images
from tests.scripts import run_script

FREE = ["--guidance", "training-free", "--criterion", "colour:250", "--steps", 3, "--num-samples", 3]


def test_the_beam_climbs_to_the_best_strengths():
    """Of a score with one top the top is found, by steps of 2, 2 and 10, and what was measured is never measured again."""
    top, seen = (2.0, 0.5, 0.01), []

    def measure(strengths):
        seen.append(strengths)
        return {"score": -sum(abs(math.log(a / b)) for a, b in zip(strengths, top, strict=True))}

    rows = search.find(measure)
    assert rows[0]["strengths"] == top
    assert seen[:4] == [(0.25, 0.25, 0.001), (0.5, 0.25, 0.001), (0.25, 0.5, 0.001), (0.25, 0.25, 0.01)]
    assert len(set(seen)) == len(seen) == len(rows) <= 4 + 5 * 6
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_the_beam_ends_at_the_greatest_strengths():
    rows = search.find(lambda strengths: {"score": strengths[0]})
    assert rows[0]["strengths"][0] == 8
    assert max(row["strengths"][2] for row in rows) <= 1
    assert max(max(row["strengths"]) for row in rows) == 8


@pytest.fixture(scope="module")
def searched(tiny, tmp_path_factory):
    """(The folder of a search of one round, what it printed.)"""
    out, patch = tmp_path_factory.mktemp("search"), pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(search, "ROUNDS", 1)
        words = [str(word) for word in (tiny, *FREE, "--search", "--out", out)]
        lines = []
        patched.setattr("builtins.print", lambda *text, **_: lines.append(" ".join(map(str, text))))
        sweep.main(words)
    return out, "\n".join(lines)


def test_a_search_is_written_and_its_last_line_draws_with_the_best(searched, tiny, tmp_path, capsys):
    """The mean of the criterion over those samples is the score of the first row."""
    out, printed = searched
    found = json.loads((out / "search.json").read_text())
    assert len(found["rows"]) == 4
    assert found["rows"][0]["score"] == found["rows"][0]["criterion"] >= found["rows"][-1]["score"]
    assert printed.splitlines()[-1] == found["command"]
    program, command, *words = shlex.split(found["command"])
    assert (program, command) == ("guided-jax", "sample")
    options = sample.parse(words)
    assert (
        options.method.training_free.rho,
        options.method.training_free.mu,
        options.method.training_free.smoothing,
    ) == (tuple(found["rows"][0]["strengths"]))
    code, _, err = run_script(sample.main, [*words, "--num-samples", 3, "--out", tmp_path / "drawn"], capsys)
    assert code == 0, err
    pictures = images.load_npz(tmp_path / "drawn" / "samples.npz")[0]
    lacking = 250 / 127.5 - 1 - (pictures / 127.5 - 1).mean((1, 2, 3))
    np.testing.assert_allclose(found["rows"][0]["criterion"], np.mean(-32 * lacking**2), rtol=0.02)


def test_the_score_by_a_judge_is_its_accuracy_less_the_distance_over_that_without_guidance(tiny, monkeypatch):
    blank = lambda params, indices, *given: draw.Drawn(  # noqa: E731
        np.zeros((len(indices), 8, 8, 1), np.uint8), np.ones(len(indices), bool)
    )
    monkeypatch.setattr(draw, "make_sampler", lambda *given: blank)  # what is drawn is tested above
    fds = iter([40.0, 10.0])
    judged = lambda *given: lambda samples: {"accuracy": 0.75, "fd": next(fds)}  # noqa: E731
    monkeypatch.setattr(search, "_make_judge", judged)
    options = sample.parse([str(tiny), "--guidance", "training-free", "--steps", "2", "--num-samples", "2"])
    measured = search.make_measure(options, runs.load(tiny))((0.25, 0.25, 0.001))
    assert measured == {"score": 0.5, "accuracy": 0.75, "fd": 10.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guidance", "universal"], "--search has no effect with --guidance universal; it is for training-free"),
        ([*FREE, "--rho", 1], "--rho has no effect with --search"),
        ([*FREE, "--scales", "0:2"], "--scales has no effect with --search"),
        ([*FREE, "--seeds", 2], "--seeds has no effect with --search"),
    ],
)
def test_what_a_search_ignores_is_refused(words, message, tiny, tmp_path, capsys):
    code, _, err = run_script(sweep.main, [tiny, *words, "--search", "--out", tmp_path / "out"], capsys)
    assert (code, message in err) == (2, True), err
