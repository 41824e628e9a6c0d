"""`guided-jax demo` on a run that is trained already: it draws, judges, and says what to try next."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from guided_jax.app import cli, experiments
from guided_jax.app.demo import command as demo
from guided_jax.app.demo import comparison
from guided_jax.app.sample import draw
from guided_jax.app.train import command as train
from tests.scripts import run_script

EXPERIMENT = """
import json
from pathlib import Path

from guided_jax.app import settings

EXPERIMENT = settings.from_dict(json.loads((Path(__file__).parent / "run" / "config.json").read_text())["experiment"])
"""


def test_the_demo_ends_with_the_table_the_picture_and_what_to_try_next(tiny, tmp_path, capsys):
    shutil.copytree(tiny, tmp_path / "run")
    (tmp_path / "small.py").write_text(EXPERIMENT)
    place = ["--out", str(tmp_path / "run"), "--experiment", str(tmp_path / "small.py")]
    cli.main(["demo", *place, "--num-samples", "8", "--scales", "0", "2", "--steps", "3"])
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "run" / "demo" / "table.json").read_text())
    assert [(row["guidance"], row["scale"]) for row in rows] == [
        (guidance, scale) for guidance in ("classifier", "classifier-free") for scale in (0.0, 2.0)
    ]
    assert all(np.isfinite(row["distance"]) and 0 <= row["accuracy"] <= 1 for row in rows)
    assert (tmp_path / "run" / "demo" / "table.md").read_text().strip() in out
    assert Image.open(tmp_path / "run" / "demo" / "digits.png").size[0] > 100
    table, picture, following = (
        out.index(words) for words in ("| real digits |", "picture: ", "three commands to try")
    )
    assert table < picture < following
    assert len([line for line in out[following:].splitlines() if line.startswith("  guided-jax ")]) == 3


REFUSED = {
    "cannot read the steps 'many'": ({}, ["--steps", "many"]),
    "this experiment trains no classifier": ({"classifier": {"num_steps": 0}}, []),
    "needs an experiment with label dropout": ({"diffusion": {"label_dropout": 0.0}}, []),
    "an experiment with labels that is no upsampler": ({"diffusion": {"low_res": 4}}, []),
    "has no split 'validation'": ({"data": {"held_out": "validation"}}, []),
}


@pytest.mark.parametrize(("words", "asked"), REFUSED.items(), ids=REFUSED)
def test_what_the_demo_cannot_compare_is_refused_before_it_trains(words, asked, tmp_path, monkeypatch, capsys):
    changes, options = asked
    base = experiments.load("digits")
    parts = {name: dataclasses.replace(getattr(base, name), **fields) for name, fields in changes.items()}
    monkeypatch.setattr(experiments, "load", lambda name: dataclasses.replace(base, **parts))
    monkeypatch.setattr(train, "main", lambda args: pytest.fail("it trains"))
    code, _, err = run_script(demo.main, ["--out", tmp_path / "run", *options], capsys)
    assert (code, words in err, len(err.splitlines())) == (2, True, 1), err


def test_pictures_are_drawn_a_chunk_at_a_time_and_must_be_finite():
    """As many as asked for, each with its own index and label; not one black picture is judged."""
    asked = []

    def sample(params, indices, labels, scales, seed):
        asked.append((list(indices), list(labels), set(scales)))
        return draw.Drawn(np.zeros((len(indices), 2, 2, 1), np.uint8), np.asarray(indices) != params)

    drawn = comparison.draw_labels(sample, None, np.arange(5) % 3, 2.0, chunk=2)
    assert drawn.shape == (5, 2, 2, 1)
    assert asked == [([0, 1], [0, 1], {2.0}), ([2, 3], [2, 0], {2.0}), ([4, 4], [1, 1], {2.0})]
    with pytest.raises(ValueError, match="1 samples at scale 2 are not finite; try lower --scales or more --steps"):
        comparison.draw_labels(sample, 3, np.arange(5) % 3, 2.0, chunk=2)
