"""`guided-jax sample` of a folder of diffusers draws what that library drew, from the noise that was recorded there.

Only the noise is put in the place of ours: prompts, tokenizers, towers, scheduler, guidance and decoder are the command's.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.app import cli
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw
from guided_jax.models import latent
from guided_jax.storage import images
from tests import latent_golden as golden

FAST = ("sd1_ddim_rescale",)
NAMES = (
    *("sd1_pndm", "sd1_ddim_rescale", "sd1_dpmpp_karras", "sd1_unipc", "sd1_noguidance", "sd2_v"),
    *("sdxl", "sdxl_zero_negative", "img2img", "img2img_euler", "inpaint9", "inpaint4"),
)


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def checkpoint(meta, out):
    """Return a copy of the recorded checkpoint with the scheduler of the recording."""
    shutil.copytree(golden.FOLDER / meta["folder"], out)
    config = {**meta["scheduler_config"], "_class_name": meta["scheduler"]}
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return out


def each(value, count):
    return value if isinstance(value, list) else [value] * count


def words(meta, arrays, folder):
    """Return the options of a recorded call."""
    call, count = meta["call"], len(arrays["image"])
    negatives = each(call.get("negative_prompt"), count)
    rows = [{"prompt": p, "negative": n} for p, n in zip(each(call["prompt"], count), negatives, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = ["--prompts", folder / "rows.jsonl", "--sampler", "published", "--steps", call["num_inference_steps"]]
    found += ["--size", *meta["size"], "--scale", call["guidance_scale"]] if "image_in" not in arrays else []
    found += ["--clip-skip", call["clip_skip"]] if "clip_skip" in call else []
    if call.get("guidance_rescale"):
        found += ["--guidance", "classifier-free+rescale", "--rescale-mix", call["guidance_rescale"]]
    names = {"original_size": "--original-size", "crops_coords_top_left": "--crop", "target_size": "--target-size"}
    for name, option in names.items():
        found += [option, *call[name]] if name in call else []
    if "image_in" in arrays:
        np.savez(folder / "image.npz", arr_0=pixels(arrays["image_in"]))
        found += ["--scale", call["guidance_scale"], "--image", folder / "image.npz", "--strength", call["strength"]]
    if "mask_in" in arrays:
        np.savez(folder / "mask.npz", arr_0=pixels(np.broadcast_to(arrays["mask_in"], arrays["image_in"].shape)))
        found += ["--mask", folder / "mask.npz"]
    return found


def pixels(image):
    return np.round(golden.nhwc(image) * 255).astype(np.uint8)


def noises(name, arrays):
    """Return the noise that a recorded run begins with, and that of its encoder, if it has one."""
    if "image_in" not in arrays:
        return golden.nhwc(arrays["latents_in"]), None
    first, second = (golden.nhwc(arrays[f"noise{i}"]) for i in (0, 1))
    return (first, second) if name == "inpaint9" else (second, first)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_the_command_draws_what_was_recorded(name, tmp_path, monkeypatch):
    meta, arrays, _ = golden.read(f"pipeline_{name}")
    eps, encoding = noises(name, arrays)
    keys = draw._keys(jnp.zeros(len(eps), jnp.uint32), jnp.arange(len(eps)))
    known = jax.random.key_data(jax.vmap(lambda key: jax.random.split(key, 3)[0])(keys))

    def noise(run, key):
        return jnp.asarray(eps)[jnp.argmax((known == jax.random.key_data(key)[None]).all(-1))]

    def sample_posterior(key, mean, log_variance):
        return mean + jnp.exp(log_variance / 2) * jnp.asarray(encoding)[0]

    monkeypatch.setattr(draw, "noise", noise)
    monkeypatch.setattr(latent, "sample_posterior", sample_posterior)
    line = [
        checkpoint(meta, tmp_path / "sd"),
        *words(meta, arrays, tmp_path),
        "--devices",
        1,
        "--out",
        tmp_path / "out",
    ]
    cli.script(sample.main, [str(word) for word in line])
    found = images.load_npz(tmp_path / "out" / "samples.npz")[0].astype(int)
    shown = np.clip(arrays["image"] * 255, 0, 255)
    assert np.abs(found - shown).max() < 1.5  # within 1 of 255, and half a step of rounding
