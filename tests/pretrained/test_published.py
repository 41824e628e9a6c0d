"""Whole published models by path: `pretrained.load`, and the pictures that their authors' pipelines drew from them."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, model, pretrained, reverse, schedule
from guided_jax.pretrained import published
from guided_jax.pretrained.published import levels as tables
from tests import latent_golden as golden
from tests import pickle_writer as writer


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def draw(found, params, guide, step, levels, x, labels, noises):
    """Return (x_0, its picture) of a batch, by the steps of a run with recorded noise, compiled once."""

    def one(x, memory, label, noise, now, then):
        normal, jax.random.normal = jax.random.normal, lambda *_, **__: noise
        try:
            conditions = (found.condition(params, raw) for raw in (label, found.null))
            denoise = guide(*(model.denoiser(found, params, condition) for condition in conditions))
            return step.step(None, denoise, x, memory, now, then)
        finally:
            jax.random.normal = normal

    mapped = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None, None)))
    memory = jax.vmap(step.init)(x)
    for i, noise in zip(reversed(range(len(levels.t) - 1)), noises, strict=True):
        x, memory = mapped(x, memory, labels, noise, schedule.at(levels, i + 1), schedule.at(levels, i))
    return x, jax.jit(jax.vmap(lambda x: found.decode(params, x)))(x)


def guide_three_channels(scale):
    """What DiT's authors do: the first three channels guided."""
    return lambda c, u: guidance.channels(lambda c: guidance.classifier_free(c, u, scale), c, 3)


@pytest.mark.parametrize("name", ["ddpm", pytest.param("ddim", marks=pytest.mark.slow)])
def test_the_authors_pipeline(name):
    meta, arrays, _ = golden.read(f"pipeline_dit_original_{name}")
    found, params = pretrained.load(golden.CHECKPOINT)
    call, count = meta["call"], len(meta["call"]["class_labels"])
    step = reverse.ddpm("learned") if name == "ddpm" else reverse.ddim()
    levels = schedule.respace(found.levels, call["respacing"])
    noises = [golden.nhwc(noise[:count]) for noise in arrays["noises"]]
    x, labels = golden.nhwc(arrays["latents_in"]), jnp.array(call["class_labels"])
    x_0, image = draw(found, params, guide_three_channels(call["cfg_scale"]), step, levels, x, labels, noises)
    assert golden.error(x_0, arrays["samples"][-1][:count]) < 3e-4
    assert golden.error(image, arrays["decoded_raw"]) < 3e-4


@pytest.mark.parametrize("name", ["pipeline_dit", pytest.param("pipeline_dit_noguidance", marks=pytest.mark.slow)])
def test_the_pipeline_of_diffusers(name):
    """All channels guided, and that library's own time embedding and norm: other pictures from the same weights."""
    meta, arrays, _ = golden.read(name)
    found, params = pretrained.load(golden.CHECKPOINT, like="diffusers")
    call = meta["call"]
    levels = schedule.spaced(found.levels, call["num_inference_steps"], "leading")
    assert [int(t) - 1 for t in levels.t[:0:-1]] == arrays["timesteps"].astype(int).tolist()
    scale = max(call["guidance_scale"], 1.0)
    guide = lambda c, u: guidance.classifier_free(c, u, scale)  # noqa: E731
    x = golden.nhwc(arrays["noise0"])
    noises = [jnp.zeros_like(x)] * call["num_inference_steps"]
    x_0, image = draw(found, params, guide, reverse.ddim(), levels, x, jnp.array(call["class_labels"]), noises)
    assert golden.error(x_0, arrays["decoder_input"] * 0.18215) < 3e-4
    assert golden.error(image, arrays["decoded_raw"]) < 3e-4
    recorded = np.moveaxis(arrays["image"], -1, 1)
    assert np.abs(np.clip(np.moveaxis(np.asarray(image), -1, 1) / 2 + 0.5, 0, 1) - recorded).max() < 3e-4


def test_a_folder_says_what_it_is():
    description, weights = published.read(golden.CHECKPOINT)
    assert set(weights) == {"network", "autoencoder"}
    assert (description.family, description.class_names) == ("dit", None)
    assert np.allclose(description.latents.scale, [0.18215])
    assert published.image_shape(description) == (16, 16, 3)
    assert published.count_classes(description) == 1000
    found = published.make_model(description)
    assert (found.shape, found.parameterization, found.learned_variance, found.null) == ((8, 8, 4), "eps", True, 1000)
    shapes = published.param_shapes(description)
    params = published.import_weights(description, weights)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_a_description_survives_json():
    description, _ = published.read(golden.CHECKPOINT)
    again = published.of_json(json.loads(json.dumps(description.to_json())))
    assert again == published.of_json(again.to_json())
    assert again.latents == description.latents
    assert published.param_shapes(again) == published.param_shapes(description)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", "gan"),
        ("network", 3),
        ("latents", {"autoencoder": {}}),
        ("class_names", [1]),
        ("like", "x"),
        ("schedule", None),
    ],
)
def test_a_damaged_description_is_refused(name, value):
    saved = published.read(golden.CHECKPOINT)[0].to_json()
    with pytest.raises(TypeError, match=name):
        published.of_json({**saved, name: value})


def test_a_stable_diffusion_without_text_towers_is_refused():
    saved = published.read(golden.CHECKPOINT)[0].to_json()
    with pytest.raises(TypeError, match="text is None"):
        published.of_json({**saved, "family": "sd"})


def test_half_precision_holds_half_the_memory():
    whole = pretrained.load(golden.CHECKPOINT)[1]
    found, half = pretrained.load(golden.CHECKPOINT, jnp.bfloat16)
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(half) == size(whole) / 2
    x = jnp.ones(found.shape)
    label = jnp.int32(3)
    apply = jax.jit(lambda params: found.network(params, x, 5.0, label))
    exact = jax.jit(lambda params: pretrained.load(golden.CHECKPOINT)[0].network(params, x, 5.0, label))(whole)
    assert apply(half).dtype == jnp.float32
    assert np.abs(apply(half) - exact).max() < 0.05 * np.abs(exact).max()


@pytest.fixture
def folder(tmp_path):
    """A copy of the checkpoint, to be damaged."""
    found = tmp_path / "dit"
    shutil.copytree(golden.CHECKPOINT, found)
    for path in (found, *found.rglob("*")):
        path.chmod(0o755)
    return found


def test_wrong_folders_are_named_in_one_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        pretrained.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="like is 'x'"):
        pretrained.load(folder, like="x")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["a", "b"]}))
    with pytest.raises(ValueError, match="StableDiffusionPipeline"):
        pretrained.load(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        pretrained.load(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"has no model_index.json"):
        pretrained.load(folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    vae = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**vae, "latent_channels": 16}))
    with pytest.raises(ValueError, match="latents have 16 channels, and the network works on 4"):
        pretrained.load(folder)
    (folder / "vae" / "config.json").write_text(json.dumps(vae))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="vae has no weights"):
        pretrained.load(folder)


def test_levels_of_schedulers():
    """Rows of the reference's own tables."""
    table = tables.of_scheduler({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    assert np.allclose(np.asarray(table.alpha)[[1, 1000]] ** 2, [0.99915, 0.0046601], rtol=1e-4)
    assert len(tables.of_scheduler({"trained_betas": [0.1, 0.2]}).t) == 3
    assert float(tables.of_scheduler({"rescale_betas_zero_snr": True}).alpha[-1]) == 0
    with pytest.raises(ValueError, match="beta_schedule is 'sigmoid'"):
        tables.of_scheduler({"beta_schedule": "sigmoid"})
    with pytest.raises(ValueError, match="prediction_type is 'flow'"):
        tables.parameterization_of({"prediction_type": "flow"})


def save(path, state_dict):
    """Write a state_dict as a .safetensors file."""
    from safetensors.numpy import save_file

    save_file({key: np.ascontiguousarray(array) for key, array in state_dict.items()}, path)
    return path


def test_a_single_file_of_a_sit_follows_its_recorded_flow(tmp_path):
    """Plain Euler steps of its velocity are DDIM on the straight path."""
    meta, arrays, groups = golden.read("sit_learned_sigma")
    path = save(tmp_path / "SiT-tiny.safetensors", groups["sd"])
    found, params = pretrained.load(path, config=meta["config"])
    assert (found.parameterization, found.learned_variance, found.null) == ("flow", False, 10)
    x, label = golden.nhwc(arrays["x"]), jnp.asarray(arrays["y"], int)
    recorded = arrays["ode/samples"]
    levels = schedule.flow(len(recorded) - 1 if np.allclose(recorded[0], arrays["x"]) else len(recorded))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None, None))
    def one(x, label, now, then):
        return reverse.ddim().step(None, model.denoiser(found, params, label), x, (), now, then)[0]

    for i in reversed(range(len(levels.t) - 1)):
        x = one(x, label, schedule.at(levels, i + 1), schedule.at(levels, i))
    assert golden.error(x, recorded[-1]) < 2e-4


def test_a_single_file_takes_the_autoencoder_of_a_folder(tmp_path):
    meta, _, groups = golden.read("dit_learned_sigma")
    path = save(tmp_path / "DiT-tiny.safetensors", groups["sd_original"])
    config = meta["original_config"]
    found, params = pretrained.load(path, config=config, autoencoder=golden.CHECKPOINT / "vae")
    assert set(params) == {"network", "autoencoder"}
    image = jax.eval_shape(found.decode, params, jax.ShapeDtypeStruct(found.shape, jnp.float32))
    assert image.shape == (16, 16, 3)
    alone, params = pretrained.load(path, config=config)
    assert (set(params), alone.shape) == ({"network"}, (8, 8, 4))
    around, _ = published.read(path, golden.CHECKPOINT, config)  # the folder that the autoencoder's folder is in
    assert around == published.read(path, golden.CHECKPOINT / "vae", config)[0]
    with pytest.raises(ValueError, match=r"holds no autoencoder.*begins with"):
        pretrained.load(path, config=config, autoencoder=path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        pretrained.load(path, config=config, autoencoder=tmp_path / "nowhere")


def test_what_a_file_does_not_read_is_refused(tmp_path):
    meta, _, groups = golden.read("sit_learned_sigma")
    path = save(tmp_path / "SiT-tiny.safetensors", groups["sd"])
    with pytest.raises(ValueError, match="like is 'diffusers', which is for a DiT"):
        pretrained.load(path, config=meta["config"], like="diffusers")
    (tmp_path / "edm2.pkl").write_bytes(b"")
    for words in ({"config": {"label_dim": 3}}, {"family": "sit"}, {"like": "diffusers"}):
        with pytest.raises(ValueError, match="a pickle of EDM2, which says itself"):
            pretrained.load(tmp_path / "edm2.pkl", **words)


def test_a_network_without_a_null_label_has_none():
    config = golden.read("dit_learned_sigma")[0]["original_config"]
    nulls = [
        published.make_model(published.Description("dit", {**config, "class_dropout_prob": p})).null for p in (0.1, 0)
    ]
    assert nulls == [config["num_classes"], None]


def test_an_unconditional_edm2_ignores_the_label():
    meta, arrays, groups = golden.read("edm2_uncond")
    description = published.Description("edm2", meta["config"])
    params = published.prepare(description, published.import_weights(description, {"network": groups["sd"]}))
    found = published.make_model(description)
    assert published.count_classes(description) is None
    x, sigma = golden.nhwc(arrays["x"])[0], jnp.asarray(arrays["sigma"])[0]
    level = schedule.NoiseLevel(sigma, jnp.ones_like(sigma), sigma)
    denoised = jax.jit(lambda x: model.denoiser(found, params, 0)(x, level).x_0)(x)
    assert golden.error(denoised[None], arrays["denoised"][:1]) < 1e-4


def renumber(match):
    """blocks.8. -> decoder_blocks.0."""
    return f"decoder_blocks.{int(match[1]) - 8}."


def test_the_numbers_of_a_published_width_are_read_off_its_tensors():
    """DiT-XL/2 at 256 and SiT-XL/2, from their recorded names and shapes alone."""
    for name in ("dit_xl2_256", "dit_xl2_512", "sit_xl2_256"):
        component = golden.published(name)["original"]
        shapes = {key: np.broadcast_to(np.float32(0), shape) for key, shape in component["keys"]}
        inferred = published.infer_config(shapes)
        expected = {key: value for key, value in component["config"].items() if key != "class_dropout_prob"}
        assert {**inferred, **expected} == inferred
        older = {re.sub(r"^blocks\.(8|9|1\d|2\d)\.", renumber, key): value for key, value in shapes.items()}
        assert "decoder_blocks.19.mlp.fc1.weight" in older
        assert published.infer_config(older) == inferred  # REPA's older files count the blocks after the 8th anew


def test_files_that_do_not_say_what_they_are(tmp_path):
    meta, _, groups = golden.read("dit_learned_sigma")
    path = save(tmp_path / "model.safetensors", groups["sd_original"])
    with pytest.raises(ValueError, match="may be a DiT, a SiT or a REPA"):
        pretrained.load(path, config=meta["original_config"])
    with pytest.raises(ValueError, match="the network is 48 wide"):
        pretrained.load(path, family="dit")
    half = {key: array for key, array in groups["sd_original"].items() if not key.startswith(("pos_embed", "final"))}
    with pytest.raises(ValueError, match=r"has no pos_embed, final_layer\.linear\.weight of the usual shape"):
        pretrained.load(save(tmp_path / "half.safetensors", half), family="dit")
    assert pretrained.load(path, family="dit", config=meta["original_config"])[0].parameterization == "eps"
    with pytest.raises(ValueError, match="holds no DiT, SiT or Stable Diffusion"):
        pretrained.load(golden.CHECKPOINT / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="leave out the description of a file"):
        pretrained.load(golden.CHECKPOINT, family="dit")
    lacking = {key: array for key, array in groups["sd_original"].items() if key != "final_layer.linear.bias"}
    path = save(tmp_path / "dit.safetensors", lacking | {"extra": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match=r"missing final_layer\.linear\.bias; surplus extra"):
        pretrained.load(path, config=meta["original_config"])


def test_edm2_inside_its_preconditioning():
    """The recorded denoiser of the reference, by the model of a description; with a label, since it has no null one."""
    meta, arrays, groups = golden.read("edm2_cond_logvar")
    description = published.Description("edm2", meta["config"])
    params = published.import_weights(description, {"network": groups["sd"]})
    found = published.make_model(description)
    assert (found.shape, found.parameterization, found.null) == ((16, 16, 4), "edm", None)
    labels = jnp.asarray(arrays["class_labels"].argmax(-1) + 6 * (arrays["class_labels"].sum(-1) == 0))
    sigma = jnp.asarray(arrays["sigma"])
    levels = schedule.NoiseLevel(sigma, jnp.ones_like(sigma), sigma)
    prepared = published.prepare(description, params)

    @jax.jit
    @jax.vmap
    def denoise(x, level, label):
        return model.denoiser(found, prepared, label)(x, level).x_0

    assert golden.error(denoise(golden.nhwc(arrays["x"]), levels, labels), arrays["denoised"]) < 1e-4
    assert float(found.levels.sigma[1]) == pytest.approx(0.002)
    with pytest.raises(ValueError, match="sigma_data is 1"):
        published.make_model(description._replace(network={**meta["config"], "sigma_data": 1}))


def edm2_file(path, **others):
    """Write the recorded conditional EDM2 as NVIDIA publishes its networks."""
    meta, _, groups = golden.read("edm2_cond_logvar")
    path.write_bytes(writer.snapshot(writer.network(groups["sd"], meta["config"]), **others))
    return path


def test_an_edm2_pickle_says_how_its_latents_are_whitened(tmp_path):
    path = edm2_file(tmp_path / "edm2-img512-tiny.pkl", encoder=writer.encoder())
    description, _ = published.read(path, golden.CHECKPOINT / "vae")
    assert (description.family, description.latents.image_range) == ("edm2", (0.0, 1.0))
    assert np.allclose(description.latents.shift, [5.81, 3.25, 0.12, -2.15], rtol=1e-5)
    assert np.allclose(description.latents.scale, 0.5 / np.array([4.17, 4.62, 3.71, 3.28]), rtol=1e-5)
    bare, _ = published.read(edm2_file(tmp_path / "bare.pkl"), golden.CHECKPOINT / "vae")
    assert np.allclose(bare.latents.shift + bare.latents.scale, description.latents.shift + description.latents.scale)
    found, params = pretrained.load(path, autoencoder=golden.CHECKPOINT / "vae")
    white = jnp.zeros((32, 32, 3)) + 1  # 1 of the pixels of our pictures is 1 of [0, 1] as well
    z = jax.jit(lambda: found.encode(params, jax.random.key(0), white))()
    again, own = pretrained.load(golden.CHECKPOINT)
    same = np.asarray(jax.jit(lambda: again.encode(own, jax.random.key(0), white))()) / 0.18215
    assert np.allclose(z, (same - description.latents.shift) * description.latents.scale, atol=1e-4)
