"""`guided-jax sample --lora`: a LoRA merged into the weights of a converted Stable Diffusion."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import loras
from guided_jax.storage import images
from tests import latent_golden as golden

KOHYA = golden.FOLDER / "lora" / "kohya.safetensors"


@pytest.fixture(scope="module")
def run(stable_diffusion):
    return stable_diffusion


def draw(run, out, *words):
    line = [run, "--num-samples", "2", "--batch-size", "2", "--devices", "1", "--steps", "2", "--prompt", "a cat"]
    cli.script(sample.main, [str(word) for word in [*line, "--out", out, *words]])
    return images.load_npz(out / "samples.npz")[0]


def test_a_lora_is_merged_once_and_recorded(run, tmp_path, capsys):
    file = shutil.copy(KOHYA, tmp_path / "a:style.safetensors")
    out = tmp_path / "out"
    draw(run, out, "--lora", f"{file}:3")
    record = json.loads((out / "samples.json").read_text())
    assert record["lora"] == [f"{file}:3"]
    assert len(record["digests"]) == 1
    state = load_file(file)
    save_file({key: array + 1 if key.endswith("up.weight") else array for key, array in state.items()}, file)
    with pytest.raises(SystemExit):
        draw(run, out, "--lora", f"{file}:3")  # another file of the same name
    assert "--overwrite" in capsys.readouterr().err
    assert json.loads((out / "samples.json").read_text()) == record


@pytest.mark.slow  # in the fast suite the weights that are drawn with, below
def test_a_lora_changes_what_is_drawn(run, tmp_path):
    drawn, plain = draw(run, tmp_path / "drawn", "--lora", f"{KOHYA}:3"), draw(run, tmp_path / "plain")
    assert (drawn != plain).any()
    assert "lora" not in json.loads((tmp_path / "plain" / "samples.json").read_text())


@pytest.mark.slow
def test_several_are_merged_one_after_the_other(run):
    """The same adapter in two layouts: by halves, what the first alone makes of the weights."""
    halves = (f"{KOHYA}:1.5", f"{golden.FOLDER / 'lora' / 'pytorch_lora_weights.safetensors'}:1.5")
    found = runs.load(run)
    one, two, plain = (loras.merge_loras(found, words).params("diffusion") for words in ((f"{KOHYA}:3",), halves, ()))
    chex.assert_trees_all_close(two, one, atol=1e-5)
    changed = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max() > 1e-3, one, plain)
    assert any(jax.tree.leaves(changed))


def test_the_multiplier_of_a_word(tmp_path):
    (tmp_path / "a:0.5").write_bytes(b"")
    assert loras.parse(str(tmp_path / "a:0.5")) == (tmp_path / "a:0.5", 1.0)
    assert loras.parse(str(tmp_path / "a:0.5:-2"))[1] == -2.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora", "nowhere.safetensors:0.8"], "there is no file nowhere.safetensors"),
        (["--lora", f"{KOHYA}:much"], "give a file, or a file and a finite number"),
        (["--lora", f"{KOHYA}:nan"], "give a file, or a file and a finite number"),
        (["--lora", str(golden.FOLDER / "checkpoints/sd1/vae/diffusion_pytorch_model.safetensors")], "is not a LoRA"),
    ],
)
def test_wrong_files_are_one_sentence(run, tmp_path, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        draw(run, tmp_path / "out", *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_family_takes_none(published, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.script(sample.main, [str(published), "--lora", str(KOHYA), "--out", str(tmp_path / "out")])
    assert "--lora is for runs of a Stable Diffusion" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
