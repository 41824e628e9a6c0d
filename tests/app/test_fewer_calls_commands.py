"""A U-Net with a second head, and one that learns its guidance: trained, sampled, and refused where they cannot be."""

import json

import numpy as np
import pytest

from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.train import command as train
from guided_jax.storage import images
from tests.scripts import run_script

DRAWN = ("distilled",)  # here, of the guidances of the list
SMALL = [
    *("--diffusion.network.model-channels", 8, "--diffusion.network.channel-mult", 1),
    *("--diffusion.network.attention-resolutions", 2, "--diffusion.network.num-head-channels", "None"),
    *(
        "--classifier.num-steps",
        0,
        "--diffusion.batch-size",
        4,
        "--diffusion.sample-every",
        0,
        "--schedule.num-steps",
        10,
    ),
    *(
        "--diffusion.eval-every",
        0,
        "--diffusion.log-every",
        1,
        "--diffusion.optimizer.warmup-steps",
        0,
        "--no-tensorboard",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of two runs of some steps: one with an internal head, and one that learns what that one predicts."""
    place = tmp_path_factory.mktemp("fewer")
    head = ["--diffusion.network.internal-head", "middle_block", "--diffusion.num-steps", 4]
    train.main([str(word) for word in ("digits", *SMALL, *head, "--out", place / "run")])
    taught = ["--diffusion.distill-from", place / "run", "--diffusion.distill-scales", 0, 3, "--diffusion.num-steps", 2]
    train.main([str(word) for word in ("digits", *SMALL, *taught, "--out", place / "taught")])
    return place


def rows_of(run):
    return [json.loads(line) for line in (run / "diffusion" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_both_are_trained_and_drawn(place, tmp_path, capsys):
    """The teacher's second head is trained beside the last; the other one starts as the teacher, told the scale."""
    first = rows_of(place / "run")[0]
    assert first["loss"] == pytest.approx(1.5 * first["internal_loss"], rel=1e-5)  # both heads start at 0
    assert rows_of(place / "taught")[0]["loss"] < 0.1 * first["loss"]
    run = runs.load(place / "taught")
    assert (run.scales, runs.load(place / "run").scales) == ((0.0, 3.0), None)
    mine, teacher = (runs.params(place / name, "diffusion")["params"] for name in ("taught", "run"))
    assert set(mine) - set(teacher) == {"scale_embed_0", "scale_embed_2"}
    assert set(teacher) - set(mine) == {"internal_0", "internal_2"}
    found = {}
    for name, words in {
        "internal": [place / "run", "--guidance", "internal", "--labels", 3],
        "one": [place / "taught", "--guidance", "distilled", "--labels", 3],
        "none": [place / "taught", "--guidance", "none", "--labels", 3],
        "nowhere": [
            place / "taught",
            "--guidance",
            "distilled+interval",
            "--interval-low",
            1e6,
            "--interval-high",
            1e7,
            "--labels",
            3,
            "--scale",
            3,
        ],
        "three": [place / "taught", "--guidance", "distilled+ramp", "--labels", 3, "--scale", 3],
        "free": [place / "taught", "--guidance", "classifier-free", "--labels", 3, "--scale", 3],
        "both": [place / "run", "--guidance", "internal+interval", "--labels", 3, "--label-scale", 2, "--scale", 3],
    }.items():
        code, _, err = run_script(
            sample.main, [*words, "--steps", 3, "--num-samples", 2, "--out", tmp_path / name], capsys
        )
        assert code == 0, err
        found[name] = images.load_npz(tmp_path / name / "samples.npz")[0].astype(int)
    assert np.abs(found["one"] - found["none"]).max() <= 1
    assert np.abs(found["nowhere"] - found["none"]).max() <= 1
    code, _, err = run_script(sample.main, [place / "run", "--guidance", "distilled"], capsys)
    assert (code, "told no scale; train one by --diffusion.distill-from RUN" in err) == (2, True)
    code, _, err = run_script(sample.main, [place / "taught", "--guidance", "distilled", "--scale", 4], capsys)
    assert (code, "--scale is 4, and the network learned 0 to 3; give one of these" in err) == (2, True)
    for words, error in (
        (["--schedule.name", "sigmoid"], "has other noise levels than this one; give another run"),
        (["--diffusion.network.model-channels", 16], f"--diffusion.distill-from {place / 'run'} does not fit: "),
    ):
        given = ["digits", *SMALL, "--diffusion.distill-from", place / "run", *words, "--out", tmp_path / "refused"]
        code, _, err = run_script(train.main, given, capsys)
        assert (code, error in err) == (2, True), err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--diffusion.distill-scales", 1, 3], "has no effect without --diffusion.distill-from"),
        (["--diffusion.distill-from", "RUN", "--diffusion.distill-scales", 3, 1], "is 3 1; give the lower one first"),
        (["--diffusion.distill-from", "RUN", "--diffusion.architecture", "dit"], "does not go with --diffusion.archit"),
        (["--diffusion.distill-from", "RUN", "--diffusion.low-res", 4], "does not go with --diffusion.low-res"),
        (["--diffusion.network.internal-head", "out"], "internal_head has 'out', but the network has middle_block, "),
    ],
)
def test_what_cannot_be_trained_is_refused(words, error, tmp_path, capsys):
    code, _, err = run_script(train.main, ["digits", *words, "--out", tmp_path / "run"], capsys)
    assert (code, error in err) == (2, True), err
    assert not (tmp_path / "run").exists()
