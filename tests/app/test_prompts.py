"""Text to image by the command line: prompts are the classes of a converted Stable Diffusion."""

import numpy as np
import pytest

from guided_jax.app import cli
from guided_jax.app.convert import command as convert
from guided_jax.app.sample import command as sample
from guided_jax.storage import images
from tests import latent_golden as golden


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny Stable Diffusion 1 of the golden folder, converted."""
    out = tmp_path_factory.mktemp("sd1") / "run"
    cli.script(convert.main, [str(golden.FOLDER / "checkpoints" / "sd1"), "--out", str(out)])
    return out


def draw(run, out, *words):
    line = [run, "--num-samples", "4", "--batch-size", "4", "--devices", "1", "--steps", "3", "--out", out, *words]
    cli.script(sample.main, [str(word) for word in line])
    return images.load_npz(out / "samples.npz")


GUIDED = ("--guidance", "classifier-free", "--scale", "7.5")


def test_prompts_in_turn_and_a_negative_one(run, tmp_path):
    prompts = ("--prompt", "a photo of a cat", "two red apples")
    drawn, labels = draw(run, tmp_path / "negative", *GUIDED, *prompts, "--negative", "blurry")
    assert drawn.shape[0] == 4
    assert list(labels) == [0, 1, 0, 1]
    (tmp_path / "prompts.txt").write_text("a photo of a cat\n\ntwo red apples\n")
    plain, _ = draw(run, tmp_path / "plain", *GUIDED, "--prompts", tmp_path / "prompts.txt")
    assert (drawn != plain).any()
    record = (tmp_path / "negative" / "samples.json").read_text()
    assert '"blurry"' in record
    assert '"two red apples"' in record


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--guidance", "negative", "--negative", "blurry", "--scale", "3"),
        ("--guidance", "compose", "--also", "two red apples", "--also-scale", "-1", "--scale", "3"),
        ("--guidance", "perturbed-attention", "--scale", "3"),
        ("--preset", "--scale", "5"),
    ],
)
def test_other_guidances_of_prompts(run, tmp_path, words):
    drawn, _ = draw(run, tmp_path, *words, "--prompt", "a photo of a cat")
    assert np.std(drawn) > 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name what to draw with --prompt"),
        (["--labels", "3"], "leave out --labels"),
        (["--prompts", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--prompt", "a cat", "--also", "a dog"], "--also has no effect"),
    ],
)
def test_wrong_prompts_are_one_sentence(run, tmp_path, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.script(sample.main, [str(run), "--out", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
