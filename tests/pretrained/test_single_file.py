"""A Stable Diffusion in one file, by the names of CompVis, against the same weights in the folders of diffusers."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from guided_jax import pretrained
from guided_jax.app import cli
from guided_jax.app import run as runs
from guided_jax.app.convert import command as convert
from guided_jax.pretrained import autoencoder, clip, published, stable_diffusion
from guided_jax.pretrained.clip import keys
from guided_jax.pretrained.published import stable_diffusion_configs as configs
from guided_jax.pretrained.published import stable_diffusion_folder
from guided_jax.pretrained.stable_diffusion import names
from tests import latent_golden as golden

FOLDERS = golden.FOLDER / "checkpoints"
FILE = FOLDERS / "sd1_ldm.safetensors"


def check_same(ours, theirs):
    """Leaf by leaf the same numbers."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.array_equal(one, other)


def bare(folder, out):
    """Copy a folder without its weights."""
    return shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))


def test_a_file_is_its_folder(tmp_path):
    """The file was written by others, with half-precision numbers, schedule tables and averages beside the networks."""
    expected, params = pretrained.load(FOLDERS / "sd1")
    found, read = pretrained.load(FILE, config=FOLDERS / "sd1")
    check_same(read, params)
    assert (found.shape, found.parameterization) == (expected.shape, expected.parameterization)
    description, _ = published.read(FILE, config=bare(FOLDERS / "sd1", tmp_path / "bare"))
    assert description == published.read(FOLDERS / "sd1")[0]


def single_file(folder, description, prefixes):
    """Return the state_dict of a folder by the names of CompVis; prefixes: of its text towers, the last in OpenCLIP's."""
    parts = published.make_parts(description)
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    state = {"alphas_cumprod": np.ones(10, np.float32), "model_ema.decay": np.float32(0.9)}
    for path in traverse_util.flatten_dict(stable_diffusion.shapes(parts.network)["params"]):
        key = names.PREFIX + names.compvis_key(list(path))
        state[key] = unet[names.diffusers_key(list(path), parts.network.layers_per_block)]
    levels = len(parts.autoencoder.block_out_channels)
    for path in traverse_util.flatten_dict(autoencoder.shapes(parts.autoencoder)["params"]):
        key = autoencoder.torch_key(list(path))
        state[autoencoder.PREFIX + autoencoder.compvis_key(key, levels)] = vae[key]
    for i, prefix in enumerate(prefixes):
        tower = load_file(folder / ("text_encoder", "text_encoder_2")[i] / "model.safetensors")
        if prefix.endswith("transformer."):
            state |= {prefix + key: array for key, array in tower.items()}
        else:
            state |= {prefix + key: array for key, array in open_clip(tower, description.text.towers[i])}
    return {key: np.ascontiguousarray(array) for key, array in state.items()}


def open_clip(tower, config):
    """Yield (key, array) of a text tower in OpenCLIP's names, of one with the names of transformers."""
    module = clip.make_text(config, projection="text_projection.weight" in tower)
    own = keys.key_function(list(tower), "", "text")
    for path in traverse_util.flatten_dict(clip.shapes(module)["params"]):
        wanted = own(list(path))
        array = tower[wanted] if isinstance(wanted, str) else np.concatenate([tower[key] for key in wanted])
        yield keys._open_key("text", list(path)), array.T if path[0] == "projection" else array


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("sd2_v", ["cond_stage_model.model."]),
        ("sdxl", ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."]),
    ],
)
def test_files_of_two_and_xl(tmp_path, name, prefixes):
    description, weights = published.read(FOLDERS / name)
    params = published.import_weights(description, weights)
    state = single_file(FOLDERS / name, description, prefixes)
    if name == "sd2_v":  # whose text tower has a last layer and a projection that are never read
        last = f"{prefixes[0]}transformer.resblocks."
        state |= {key.replace("blocks.0.", "blocks.3."): v for key, v in state.items() if key.startswith(f"{last}0.")}
        state |= {
            f"{prefixes[0]}text_projection": np.ones((48, 24), np.float32),
            f"{prefixes[0]}logit_scale": np.ones((), np.float32),
        }
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    found, read = published.read(path, config=FOLDERS / name)
    assert found == description
    check_same(published.import_weights(found, read), params)


def test_configurations_as_published():
    """Every network is the recorded one, whose parameters are counted in tests/pretrained/test_stable_diffusion.py."""
    count = lambda shapes: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))  # noqa: E731
    unets, towers = golden.published("unets"), golden.published("text_encoders")
    for known, unet in ((configs.ONE, "sd1.5"), (configs.XL, "sdxl")):
        module = stable_diffusion.make_unet(known["unet"])
        assert module == stable_diffusion.make_unet(unets[unet]["config"])
        assert known["unet"]["sample_size"] == unets[unet]["config"]["sample_size"]
        shapes = autoencoder.shapes(autoencoder.make_autoencoder(known["vae"]))
        assert count(shapes) == golden.published("sd_vae")["vae"]["parameters"]
    for config, name in ((configs.CLIP_L, "sd1.5 text_encoder"), (configs.CLIP_G, "sdxl_base text_encoder_2")):
        projection = "architectures" in config
        assert clip.make_text(config, projection=projection) == clip.make_text(
            towers[name]["config"], projection=projection
        )


def test_tokenizers_alone_for_published_sizes(tmp_path):
    """The configurations are then those of 1 as published, which these small weights do not fit."""
    shutil.copytree(FOLDERS / "sd1" / "tokenizer", tmp_path / "tokenizer")
    description, weights = published.read(FILE, config=tmp_path)
    assert description.network["cross_attention_dim"] == 768
    with pytest.raises(ValueError, match=r"misshapen model\.diffusion_model\.input_blocks\.0\.0\.bias"):
        published.import_weights(description, weights)


def test_the_refiner_of_xl_is_one_sentence():
    """It has XL's sizes, and one text encoder."""
    refiner = {name: config for name, config in configs.XL.items() if name != "text_encoder"}
    with pytest.raises(ValueError, match=r"has text_encoder_2, and a U-Net of .* XL's refiner is not"):
        stable_diffusion_folder.describe(refiner, golden.FOLDER)


def test_what_is_missing_is_named(tmp_path):
    state = load_file(FILE)
    for config in (None, {"unet": {}}, tmp_path / "nowhere"):
        with pytest.raises(
            ValueError, match="is a Stable Diffusion 1, whose file has no tokenizer; give as its config"
        ):
            published.read(FILE, config=config)
    with pytest.raises(ValueError, match="has no tokenizer: neither"):
        published.read(FILE, config=tmp_path)
    with pytest.raises(ValueError, match="leave out family and like"):
        published.read(FILE, config=FOLDERS / "sd1", family="dit")
    with pytest.raises(ValueError, match=r"is a Stable Diffusion 1, and .*sdxl has 2 text encoders"):
        published.read(FILE, config=FOLDERS / "sdxl")
    renamed = {key.replace("cond_stage_model.transformer.", "cond_stage_model.model."): v for key, v in state.items()}
    save_file(renamed, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="do not tell whether they predict eps or v"):
        published.read(tmp_path / "two.safetensors", config=tmp_path)
    unet = {key: array for key, array in state.items() if key.startswith("model.")}
    save_file(unet, tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match="a U-Net and no text encoder"):
        published.read(tmp_path / "unet.safetensors", config=FOLDERS / "sd1")
    del state["cond_stage_model.transformer.text_model.final_layer_norm.bias"]
    save_file(state, tmp_path / "less.safetensors")
    found = published.read(tmp_path / "less.safetensors", config=FOLDERS / "sd1")
    with pytest.raises(ValueError, match=r"missing text_model\.final_layer_norm\.bias"):
        published.import_weights(*found)


def test_another_autoencoder_takes_the_place_of_its_own():
    description, weights = published.read(FILE, FOLDERS / "inpaint" / "vae", FOLDERS / "sd1")
    assert description.latents == published.read(FOLDERS / "inpaint")[0].latents
    assert "first_stage_model.encoder.conv_in.weight" not in weights["autoencoder"]


@pytest.mark.slow  # in the fast suite it is read without the command, above, and a folder with it: tests/conftest.py
def test_the_command_converts_it(tmp_path, capsys):
    out = tmp_path / "run"
    cli.script(convert.main, [str(FILE), "--config", str(FOLDERS / "sd1"), "--out", str(out)])
    assert f'guided-jax sample {out} --preset --prompt "' in capsys.readouterr().out
    run = runs.load(out)
    check_same(run.params("diffusion"), pretrained.load(FOLDERS / "sd1")[1])
    assert run.text is not None
    assert json.loads((out / "config.json").read_text())["published"]["description"]["family"] == "sd"


def test_the_command_asks_for_the_folder_of_its_configuration(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.script(convert.main, [str(FILE), "--out", str(tmp_path / "none")])
    assert "give as its --config the folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
