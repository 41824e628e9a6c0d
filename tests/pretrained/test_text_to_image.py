"""The recorded pipelines of Stable Diffusion, by path: their prompts' ids through our towers, networks and samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import forward, guidance, model, reverse, schedule
from guided_jax.pretrained import published
from guided_jax.pretrained.published import Prompt, schedulers, steps
from tests import latent_golden as golden


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


LOADED = {}


def load(name):
    """Return (meta, arrays, description, params, model) of a recorded pipeline with its scheduler; read once a folder."""
    meta, arrays, _ = golden.read(f"pipeline_{name}")
    folder = meta["folder"]
    if folder not in LOADED:
        description, weights = published.read(golden.FOLDER / folder)
        LOADED[folder] = description, published.import_weights(description, weights)
    description, params = LOADED[folder]
    description = description._replace(schedule={**meta["scheduler_config"], "_class_name": meta["scheduler"]})
    return meta, arrays, description, params, published.make_model(description)


def prompts(meta, arrays, which="", size=None):
    """Return the batch of prompts of a recorded pipeline, `which` of them "" or "negative_"; None where there are none."""
    ids = [arrays[f"{which}input_ids{tower}"] for tower in ("", "_2") if f"{which}input_ids{tower}" in arrays]
    if not ids:
        return None
    ids = jnp.asarray(np.stack(ids, axis=1), jnp.int32)
    sizes = None if size is None else jnp.tile(jnp.asarray(size, jnp.float32), (len(ids), 1))
    return Prompt(ids, sizes, keep=jnp.ones(len(ids)), skip=jnp.zeros(len(ids), int))


def downwards(count):
    """Return where each of the last `count` steps of a run begins and ends."""
    return [(i, i - 1) for i in range(count, 0, -1)]


def run(found, params, description, call, positive, negative, x, noises, places=None, around=lambda step: step):
    """Return (x_0, its picture): the steps of a run with recorded noise, compiled once.

    places: the positions in the table of levels where each step begins and ends; all of them if None.
    """
    config, count, scale = description.schedule, call["num_inference_steps"], call["guidance_scale"]
    levels, step = schedulers.levels_of(config, count), around(steps.make_step(config, count, call.get("eta", 0.0)))
    read = "v" if found.parameterization == "v" else "eps"

    def one(x, memory, positive, negative, noise, now, then):
        normal, jax.random.normal = jax.random.normal, lambda *_, **__: noise
        try:
            conditional, unconditional = (model.denoiser(found, params, each) for each in (positive, negative))
            guide = lambda c: guidance.classifier_free(c, unconditional, scale)  # noqa: E731
            denoise = guide(conditional) if scale > 1 else conditional
            if call.get("guidance_rescale"):
                denoise = guidance.rescale(guide, conditional, call["guidance_rescale"], read)
            return step.step(None, denoise, x, memory, now, then)
        finally:
            jax.random.normal = normal

    mapped = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None, None)))
    memory = jax.vmap(step.init)(x)
    places = downwards(count) if places is None else places
    for (i, j), noise in zip(places, noises or [jnp.zeros_like(x)] * len(places), strict=True):
        now, then = schedule.at(levels, i), schedule.at(levels, j)
        x, memory = mapped(x, memory, positive, negative, noise, now, then)
    x_0 = x / schedule.at(levels, 0).alpha if description.schedule["_class_name"].startswith("Euler") else x
    return x_0, jax.jit(jax.vmap(lambda x: found.decode(params, x)))(x_0)


def check(x_0, image, arrays, description):
    """The final latents, and the picture within 1 of 255."""
    assert golden.error(np.asarray(x_0) / description.latents.scale, arrays["decoder_input"]) < 5e-4
    shown = np.clip(np.asarray(image) / 2 + 0.5, 0, 1)
    assert np.abs(shown - arrays["image"]).max() < 1 / 255
    assert golden.error(image, arrays["decoded_raw"]) < 1e-3


TEXT = (
    *("sd1_pndm", "sd1_ddim_rescale", "sd1_dpmpp_karras", "sd1_unipc", "sd1_euler_a", "sd1_noguidance"),
    *("sd1_ddim_eta_clipskip", "sd2_v", "sdxl", "sdxl_zero_negative"),
)


FAST = ()  # in the slow suite: each compiles a network of its own; tests/app/test_recorded_pictures.py has a fast one


def marked(names):
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(TEXT))
def test_text_to_image(name):
    meta, arrays, description, params, found = load(name)
    call, height_width = meta["call"], meta["size"]
    size = None
    if description.text.is_penultimate:
        corner = call.get("crops_coords_top_left", (0, 0))
        size = [*call.get("original_size", height_width), *corner, *call.get("target_size", height_width)]
    positive, negative = prompts(meta, arrays, size=size), prompts(meta, arrays, "negative_", size)
    if negative is None:  # none at all: of XL zeros
        assert description.text.zero_null or call["guidance_scale"] <= 1
        negative = positive._replace(keep=jnp.zeros(len(positive.ids)))
    positive = positive._replace(skip=positive.skip + call.get("clip_skip", 0))
    encode = jax.jit(jax.vmap(published.make_condition(description), in_axes=(None, 0)))
    conditions = encode(params, positive), encode(params, negative)
    assert golden.error(conditions[0]["context"], arrays["prompt_embeds"]) < 5e-5
    if "negative_prompt_embeds" in arrays and np.abs(arrays["negative_prompt_embeds"]).max():
        assert golden.error(conditions[1]["context"], arrays["negative_prompt_embeds"]) < 5e-5
    x = golden.nhwc(arrays["latents_in"]) * schedulers.initial_std(description.schedule, call["num_inference_steps"])
    noises = [golden.nhwc(arrays[f"noise{i}"]) for i in range(meta["number_of_noises"])]
    check(*run(found, params, description, call, *conditions, x, noises), arrays, description)


def picture(arrays):
    """The given picture, in [-1, 1]."""
    return 2 * arrays["image_in"] - 1


def encode(found, params, image, noise):
    """Return the latents that the encoder draws for each image with the recorded noise."""

    def one(image, noise):
        normal, jax.random.normal = jax.random.normal, lambda *_, **__: noise
        try:
            return found.encode(params, jax.random.key(0), image)
        finally:
            jax.random.normal = normal

    return jax.jit(jax.vmap(one))(golden.nhwc(image), golden.nhwc(noise))


def encode_prompts(description, params, meta, arrays):
    """Return the positive and the negative condition of a recorded pipeline."""
    condition = jax.jit(jax.vmap(published.make_condition(description), in_axes=(None, 0)))
    both = (prompts(meta, arrays, which) for which in ("", "negative_"))
    return [condition(params, each) for each in both]


IMAGES = ("img2img", "img2img_euler", "img2img_pndm")


@pytest.mark.parametrize("name", marked(IMAGES))
def test_image_to_image(name):
    """The picture's latents, noised to where the last `strength` of the steps begin."""
    meta, arrays, description, params, found = load(name)
    call = meta["call"]
    count = call["num_inference_steps"]
    conditions = encode_prompts(description, params, meta, arrays)
    x_0 = encode(found, params, picture(arrays), arrays["noise0"])
    levels = schedulers.levels_of(description.schedule, count)
    kept = min(int(count * call["strength"]), count)
    places = downwards(kept)
    if meta["scheduler"] == "PNDMScheduler":
        # Its list has one step twice: the run begins a step earlier, and takes x for that of the level after the next.
        places = [(kept + 1, kept), *places[1:]]
    x = forward.diffuse(x_0, golden.nhwc(arrays["noise1"]), schedule.at(levels, places[0][0]))
    check(*run(found, params, description, call, *conditions, x, [], places), arrays, description)


@pytest.mark.slow
def test_inpainting_with_nine_channels():
    """The mask and the latents of the masked picture are told to the network at every step."""
    meta, arrays, description, params, found = load("inpaint9")
    call, conditions = meta["call"], encode_prompts(description, params, meta, arrays)
    mask = (arrays["mask_in"] >= 0.5).astype(np.float32)
    masked = encode(found, params, picture(arrays) * (mask < 0.5), arrays["noise1"])
    factor = mask.shape[-1] // masked.shape[-2]
    inpaint = jnp.concatenate([golden.nhwc(mask[..., ::factor, ::factor]), masked], axis=-1)
    conditions = [{**each, "inpaint": inpaint} for each in conditions]
    x = golden.nhwc(arrays["noise0"])
    check(*run(found, params, description, call, *conditions, x, []), arrays, description)


@pytest.mark.slow
def test_inpainting_by_blending():
    """After each step the known latents take the place of what was drawn, with the noise that the run began with."""
    meta, arrays, description, params, found = load("inpaint4")
    call, count = meta["call"], meta["call"]["num_inference_steps"]
    conditions = encode_prompts(description, params, meta, arrays)
    x_0, eps = encode(found, params, picture(arrays), arrays["noise0"]), golden.nhwc(arrays["noise1"])
    mask = arrays["mask_in"] >= 0.5
    factor = mask.shape[-1] // x_0.shape[-2]
    known = ~golden.nhwc(mask[..., ::factor, ::factor])
    levels = schedulers.levels_of(description.schedule, count)
    kept = min(int(count * call["strength"]), count)
    x = forward.diffuse(x_0, eps, schedule.at(levels, kept))
    around = lambda step: reverse.blend(step, known[0], x_0[0], eps[0], end=float(levels.t[0]))  # noqa: E731
    check(*run(found, params, description, call, *conditions, x, [], downwards(kept), around), arrays, description)
