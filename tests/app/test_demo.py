"""`guided-jax demo` on a run that is trained already: it draws, judges, and says what to try next."""

import json
import shutil

import numpy as np
from PIL import Image

from guided_jax.app import cli

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
