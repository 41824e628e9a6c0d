"""ADM's experiments in miniature, from data to pictures: a learned variance, a classifier alone, a cascade."""

import json

import numpy as np
import pytest

from guided_jax.app import cli, experiments, facts
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.train import command as train
from guided_jax.pretrained import adm
from guided_jax.storage import images

# The networks, as narrow and as short as the digits allow.
TINY = (
    "--{part}.num-steps 3 --{part}.batch-size 8 --{part}.log-every 1 --{part}.checkpoint-every 3 --{part}.eval-every 0"
)
NET = "--{part}.network.model-channels 8 --{part}.network.num-groups 8 --{part}.network.num-res-blocks 1"
NET += (
    " --{part}.network.channel-mult 1 2 --{part}.network.attention-resolutions 2 --{part}.network.num-head-channels 8"
)
DIGITS = "--data.name digits --data.channels as-is --data.image-size 8 --data.no-flip"


def run(script, *words):
    cli.script(script.main, [word for part in words for word in str(part).split()])


@pytest.mark.slow
def test_a_learned_variance_is_trained_and_sampled_with(tmp_path):
    """imagenet64_adm: the hybrid loss, twice the channels, ddpm with the learned variance."""
    out = tmp_path / "run"
    lines = [line.format(part="diffusion") for line in (TINY, NET)]
    run(train, "imagenet64_adm --out", out, DIGITS, *lines, "--diffusion.sample-every 0")
    made = runs.load(out)
    assert made.networks.diffusion.out_channels == 2
    losses = [json.loads(line)["loss"] for line in (out / "diffusion" / "metrics.jsonl").read_text().splitlines()]
    assert np.all(np.isfinite(losses))
    run(sample, out, "--sampler ddpm --steps 3 --labels 1 --num-samples 2 --devices 1 --out", tmp_path / "drawn")
    assert images.load_npz(tmp_path / "drawn" / "samples.npz")[0].shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_a_classifier_is_trained_alone(tmp_path):
    """imagenet128_adm_classifier, its network narrowed only."""
    out = tmp_path / "run"
    lines = [line.format(part="classifier") for line in (TINY, NET)]
    run(train, "imagenet128_adm_classifier --out", out, DIGITS, "--data.crop none", *lines)
    assert not (out / "diffusion").exists()
    assert runs.params(out, "classifier")


def test_the_experiments_are_the_published_networks():
    """Equal to the modules of the published configurations; num_heads has no effect beside num_head_channels."""
    made = runs.assemble(experiments.load("imagenet64_adm"), facts.Facts((64, 64, 3), 1000, (0.001,) * 1000))
    assert made.networks.diffusion.clone(num_heads=1) == adm.unet(adm.MODELS["64x64_diffusion"].config)
    made = runs.assemble(
        experiments.load("imagenet128_adm_classifier"), facts.Facts((128, 128, 3), 1000, (0.001,) * 1000)
    )
    assert made.networks.classifier.clone(num_heads=1) == adm.classifier(adm.CLASSIFIERS["128x128_classifier"].config)


@pytest.mark.slow
def test_an_upsampler_is_trained_and_draws_from_low_resolution_pictures(tmp_path):
    """digits_upsampler: from 4x4 to 8x8; a side that does not divide 8 is refused."""
    out, line = tmp_path / "run", TINY.format(part="diffusion")
    run(train, "digits_upsampler --out", out, line)
    images.save_npz(tmp_path / "low.npz", np.full((2, 4, 4, 1), 99, np.uint8), np.array([3, 4]))
    run(
        sample,
        out,
        "--steps 2 --num-samples 2 --devices 1 --labels 3 4 --base-samples",
        tmp_path / "low.npz",
        "--out",
        tmp_path / "up",
    )
    assert images.load_npz(tmp_path / "up" / "samples.npz")[0].shape == (2, 8, 8, 1)
    with pytest.raises(SystemExit) as stop:
        run(train, "digits_upsampler --out", tmp_path / "no", line, "--diffusion.low-res 3")
    assert stop.value.code == 2


def test_low_resolution_pictures_are_means_of_blocks():
    pictures = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
    np.testing.assert_allclose(images.shrink(pictures, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
