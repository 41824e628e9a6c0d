"""What makes a Stable Diffusion fit: parameters divided over the devices, the decoder in tiles, bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, model, pretrained, schedule
from guided_jax.app import cli
from guided_jax.app.convert import command as convert
from guided_jax.app.sample import command as sample
from guided_jax.pretrained.published import Prompt
from guided_jax.storage import images
from tests import latent_golden as golden

CHECKPOINTS = golden.FOLDER / "checkpoints"


def convert_run(name, out, *words):
    cli.script(convert.main, [str(word) for word in (CHECKPOINTS / name, "--out", out, *words)])
    return out


def draw(run, out, *words):
    line = [run, "--prompt", "a photo of a cat", "two red apples", "--guidance", "classifier-free", "--scale", "4"]
    line += ["--num-samples", "2", "--batch-size", "2", "--steps", "2", "--out", out, *words]
    cli.script(sample.main, [str(word) for word in line])
    return images.load_npz(out / "samples.npz")[0].astype(int)


@pytest.mark.slow
def test_divided_parameters_and_other_kernels_draw_the_same_pictures(tmp_path):
    run = convert_run("sd1", tmp_path / "run")
    words = ("--devices", "2", "--decode-tile", "6")
    whole = draw(run, tmp_path / "whole", *words)
    assert whole.std() > 5
    for more in (("--shard-parameters",), ("--attention-kernel", "xla", "--remat")):
        assert np.abs(draw(run, tmp_path / more[0], *words, *more) - whole).max() <= 1


def test_a_kernel_that_is_not_here_is_one_sentence(published, tmp_path, capsys):
    words = ["--labels", "3", "--num-samples", "1", "--steps", "2", "--attention-kernel", "cudnn", "--out", tmp_path]
    with pytest.raises(SystemExit) as ended:
        cli.script(sample.main, [str(word) for word in (published, *words)])
    assert ended.value.code == 2
    assert "the cudnn kernel needs an NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd1", "sd2_v", "sdxl"])
def test_a_run_in_bfloat16_draws_finite_pictures(tmp_path, name):
    """The command refuses samples that are not finite."""
    drawn = draw(convert_run(name, tmp_path / "run", "--dtype", "bfloat16"), tmp_path / "out", "--devices", "1")
    assert drawn.std() > 5


@pytest.mark.slow
def test_inpainting_in_bfloat16_predicts_finite_pictures():
    own, params = pretrained.load(CHECKPOINTS / "inpaint", jnp.bfloat16)
    level = schedule.at(own.levels, 900)

    @jax.jit
    def predict(params, x, known):
        conditions = (own.condition(params, Prompt(own.null.ids, inpaint=known)) for _ in range(2))
        denoise = guidance.classifier_free(*(model.denoiser(own, params, each) for each in conditions), 4.0)
        return own.decode(params, denoise(x, level).x_0)

    x = jax.random.normal(jax.random.key(0), own.shape)
    assert jnp.isfinite(predict(params, x, jnp.ones((*own.shape[:2], 5)))).all()
