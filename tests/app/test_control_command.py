"""`guided-jax sample --control`: a ControlNet beside the U-Net of a Stable Diffusion."""

import json

import numpy as np
import pytest

from guided_jax.app import cli
from guided_jax.app.sample import command as sample
from guided_jax.storage import images
from tests import latent_golden as golden
from tests.tiny_published import CONTROL, write_control

FOLDER = golden.FOLDER / "checkpoints" / "sd1"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """(folder of a ControlNet, npz file of two pictures for it)."""
    folder = tmp_path_factory.mktemp("control")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    images.save_npz(folder / "edges.npz", pictures, np.zeros(2, int))
    return write_control(folder / "net"), folder / "edges.npz"


def draw(out, *words):
    line = [FOLDER, "--num-samples", "2", "--batch-size", "2", "--devices", "1", "--steps", "2", "--prompt", "a cat"]
    cli.script(sample.main, [str(word) for word in [*line, "--seed", "3", "--out", out, *words]])
    return images.load_npz(out / "samples.npz")[0]


@pytest.mark.slow
def test_a_control_picture_steers(inputs, tmp_path):
    net, edges = inputs
    plain = draw(tmp_path / "plain")
    words = ("--control", net, "--control-image", edges)
    drawn = draw(tmp_path / "drawn", *words)
    assert (drawn != plain).any(axis=(1, 2, 3)).all()
    record = json.loads((tmp_path / "drawn" / "samples.json").read_text())["method"]
    assert (record["control"], record["control_image"]) == (str(net), [str(edges)])
    assert "digests" in json.loads((tmp_path / "drawn" / "samples.json").read_text())
    nothing = draw(tmp_path / "nothing", *words, "--control-scale", "0")
    assert np.abs(nothing.astype(int) - plain).max() <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--control", "NET"], "name it with --control-image"),
        (["--control-image", "EDGES"], "--control-image has no effect here; it goes with --control"),
        (["--control", "nowhere", "--control-image", "EDGES"], "there is no folder nowhere"),
        (
            ["--control", "OTHER", "--control-image", "EDGES"],
            "the ControlNet is of another model: its block_out_channels",
        ),
        (["--control", "LARGE", "--control-image", "EDGES"], "reads pictures of 8 pixels a latent and 3 channels"),
    ],
)
def test_wrong_requests_are_one_sentence(inputs, tmp_path, words, message, capsys):
    others = {"OTHER": {"block_out_channels": [16, 16]}, "LARGE": {"conditioning_embedding_out_channels": [2, 2, 2, 2]}}
    made = {name: write_control(tmp_path / name, CONTROL | config) for name, config in others.items() if name in words}
    named = {"NET": inputs[0], "EDGES": inputs[1], **made}
    with pytest.raises(SystemExit) as ended:
        draw(tmp_path / "out", *(named.get(word, word) for word in words))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_family_takes_none(published, inputs, tmp_path, capsys):
    line = [str(published), "--control", str(inputs[0]), "--control-image", str(inputs[1])]
    with pytest.raises(SystemExit):
        cli.script(sample.main, [*line, "--out", str(tmp_path / "out")])
    assert "--control is for runs of a Stable Diffusion" in capsys.readouterr().err
