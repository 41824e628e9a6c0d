"""Latent diffusion of our own, by the real command: an autoencoder, its latents kept, and networks on them."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from guided_jax import data, losses, sampler, schedule
from guided_jax.app import experiments, latent_space, nll, posthoc
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import command as sample
from guided_jax.app.train import autoencoder, checks, init_from, latents, networks
from guided_jax.app.train import command as train
from guided_jax.metrics import judge as judges
from guided_jax.models import latent
from guided_jax.models.judge import Judge, feature_maps
from guided_jax.storage import checkpoint, images, log, npz
from tests.scripts import run_script

EXPERIMENT = schema.Experiment(
    devices=2,
    data=schema.Data(flip=True),
    schedule=schema.Schedule(num_steps=20),
    autoencoder=schema.Autoencoder(
        num_steps=4,
        batch_size=8,
        log_every=1,
        checkpoint_every=2,
        eval_every=2,
        eval_examples=16,
        reconstruct_every=4,
        network=schema.AutoencoderKL((4, 8), latent_channels=2, norm_num_groups=2, mid_block_add_attention=False),
    ),
    diffusion=schema.Diffusion(
        num_steps=4,
        batch_size=8,
        log_every=1,
        checkpoint_every=2,
        sample_every=4,
        eval_examples=16,
        architecture="dit",
        transformer=schema.DiT(patch_size=2, hidden_size=8, depth=2, num_heads=2, internal_head=0),
        power_ema=(0.1, 0.2),
        snapshot_every=2,
    ),
    classifier=schema.Classifier(
        num_steps=2,
        batch_size=8,
        log_every=1,
        eval_every=0,
        network=schema.Encoder(model_channels=8, channel_mult=(1,), num_head_channels=8, num_groups=4),
    ),
)
SOURCE = f"from guided_jax.app.settings import *\n\nEXPERIMENT = {EXPERIMENT!r}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an experiment of the user's, and its run without a classifier; the tests copy what they change."""
    place = tmp_path_factory.mktemp("latent")
    (place / "mine.py").write_text(SOURCE)
    less = ("--classifier.num-steps", "0", "--diffusion.sample-every", "0")
    train.main([str(word) for word in words(place, place / "run", *less)])
    return place


@pytest.fixture(scope="module")
def whole(place):
    """A run of the whole experiment, of which the tests only read."""
    train.main([str(word) for word in words(place, place / "whole")])
    return place / "whole"


def words(place, out, *more):
    return [place / "mine.py", "--out", out, "--data.dir", place / "data", *more]


def call(place, out, capsys, *more):
    return run_script(train.main, words(place, out, *more), capsys)


def copied(place, tmp_path):
    return shutil.copytree(place / "run", tmp_path / "run")


def test_a_run_holds_its_autoencoder_and_its_latents(place):
    run = runs.load(place / "run")
    assert (run.model.shape, run.facts.image_shape, run.bounded) == ((4, 4, 2), (8, 8, 1), False)
    for part in ("autoencoder", "diffusion"):
        assert checkpoint.latest(place / "run" / part / "checkpoints") == 4
        assert Image.open(place / "run" / part / "curves.png").size[0] > 100
    rows = log.read(place / "run" / "autoencoder" / "metrics.jsonl")
    held_out = {"loss", "reconstruction", "kl", "mse", "psnr"}
    assert {f"held_out_{name}" for name in held_out} | held_out <= set(rows[-1])
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["reconstruction"] + 1e-6 * rows[-1]["kl"], rel=1e-5)
    assert Image.open(place / "run" / "autoencoder" / "reconstructions-000004.png").size == (16 * 50 + 2, 4 * 50 + 2)


@pytest.mark.slow  # in the fast suite those of pixels, of the run that tests/conftest.py makes
def test_a_classifier_of_latents_is_trained_and_samples_are_drawn_on_the_way(whole):
    assert checkpoint.latest(whole / "classifier" / "checkpoints") == 2
    assert Image.open(whole / "classifier" / "curves.png").size[0] > 100
    assert Image.open(whole / "diffusion" / "samples-000004.png").size[0] > 400


def test_the_internal_head_is_trained_beside_the_last_one(place):
    """Its loss is added with its weight, at all levels alike: at first both heads are 0, and their losses the same."""
    rows = log.read(place / "run" / "diffusion" / "metrics.jsonl")
    first, last = ({row["step"]: row for row in rows}[step] for step in (1, 4))
    assert first["loss"] == pytest.approx(1.5 * first["internal_loss"], rel=1e-5)
    assert "internal_loss" in last
    assert "held_out_internal_loss" not in last
    weights = runs.params(place / "run", "diffusion")["params"]
    assert all(np.abs(weights[head]["linear"]["kernel"]).max() > 0 for head in ("internal_layer", "final_layer"))


def apply(run, params, x, method):
    """Call the autoencoder as one compiled program."""
    return jax.jit(lambda params, x: run.networks.autoencoder.apply(params, x, method=method))(params, x)


def test_the_latents_are_those_of_the_pictures_and_of_their_mirror_images(place):
    run, source = runs.load(place / "run"), data.load("digits", "train", place / "data")
    found = np.load(place / "run" / "latents" / "train.npy")
    assert (found.shape, found.dtype) == ((2 * len(source), 4, 4, 4), np.float32)
    params = latent_space.load_weights(place / "run", 4)
    image = data.scale(source.read(np.arange(5))["image"])
    both = jnp.concatenate([image, image[:, :, ::-1]])
    mean, log_variance = apply(run, params, both, "encode")
    rows = [*range(5), *range(len(source), len(source) + 5)]
    want = np.concatenate([mean, np.exp(np.asarray(log_variance) / 2)], -1)
    np.testing.assert_allclose(found[rows], want, rtol=1e-3, atol=1e-5)
    assert np.abs(found[0] - found[len(source)]).max() > 1e-4
    held_out = np.load(place / "run" / "latents" / "held_out.npy")
    assert len(held_out) == len(data.load("digits", "test", place / "data"))  # as they are


def kept(place):
    run = runs.load(place / "run")
    return latents.keep(run, place / "run", run.source, lambda: False)


def test_what_is_trained_on_has_mean_0_and_variance_1_in_each_channel(place):
    source = kept(place)(False)
    batch = source.read(np.arange(len(source)))
    mean, std = np.split(batch["image"], 2, -1)
    np.testing.assert_allclose(mean.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(mean.var((0, 1, 2)) + (std**2).mean((0, 1, 2)), 1, rtol=1e-4)
    assert min(mean.var((0, 1, 2))) > 1e-6
    half = len(source) // 2
    np.testing.assert_array_equal(batch["label"][:half], batch["label"][half:])
    np.testing.assert_array_equal(batch["label"], source.read_labels(np.arange(len(source))))
    assert (batch["label"].dtype, source.dtype) == (np.int32, np.float32)


def test_the_model_encodes_as_it_was_trained_and_decodes_what_it_encodes(place):
    """In distribution over draws; the decoder undoes shift and scale."""
    run = runs.load(place / "run")
    params = run.params("diffusion")
    image = jnp.asarray(data.scale(run.source(False).read(np.arange(1))["image"][0]))
    encode = jax.jit(jax.vmap(run.model.encode, (None, 0, None)))
    x = encode(params, jax.random.split(jax.random.key(0), 4000), image)
    mean, std = np.split(kept(place)(False).read(np.arange(1))["image"][0], 2, -1)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(x.std(0), std, rtol=0.1)
    z = latent.unwhiten(x[0], **params["whitening"])
    want = apply(run, params["autoencoder"], z, "decode")
    np.testing.assert_allclose(jax.jit(run.model.decode)(params, x[0]), want, rtol=1e-4, atol=1e-5)


def test_each_step_draws_from_the_posterior_by_keys_of_its_own():
    """Not by the noise that the denoising loss adds, which would be correlated with it."""
    moments = jnp.concatenate([jnp.full((2000, 2, 2, 1), 3.0), jnp.full((2000, 2, 2, 1), 0.5)], -1)
    keys, levels = sampler.keys(jax.random.key(0), jnp.arange(2000)), schedule.cosine(20)
    loss = latents.of_posterior(lambda params, keys, batch: (batch["image"], batch["label"]))
    x, label = loss(None, keys, {"image": moments, "label": 7})
    assert (x.shape, label) == ((2000, 2, 2, 1), 7)
    np.testing.assert_allclose((x.mean(), x.std()), (3, 0.5), rtol=0.02)
    eps = losses.corrupt(keys, x, levels).truth.eps
    assert abs(np.corrcoef(np.ravel(eps), np.ravel(x))[0, 1]) < 0.05
    other = loss(None, sampler.keys(jax.random.key(1), jnp.arange(2000)), {"image": moments, "label": 7})[0]
    assert abs(np.corrcoef(np.ravel(other), np.ravel(x))[0, 1]) < 0.05


@pytest.mark.parametrize(
    "guidance",
    [
        "classifier-free",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("classifier", "perturbed-attention", "internal")),
    ],
)
def test_samples_are_pictures_and_repeat(place, tmp_path, capsys, guidance, request):
    run = request.getfixturevalue("whole") if guidance == "classifier" else place / "run"
    options = ["--guidance", guidance, "--scale", "2", "--labels", "3", "7", "--num-samples", "4", "--steps", "3"]
    found = []
    for name in ("one", "two"):
        code, _, err = run_script(sample.main, [run, *options, "--out", tmp_path / name], capsys)
        assert code == 0, err
        found.append(images.load_npz(tmp_path / name / "samples.npz"))
    (one, labels), (two, _) = found
    np.testing.assert_array_equal(one, two)
    assert (one.shape, one.dtype, labels.tolist()) == ((4, 8, 8, 1), np.uint8, [3, 7, 3, 7])


@pytest.mark.slow
def test_stopped_anywhere_and_resumed_is_uninterrupted(place, whole, tmp_path):
    """In the autoencoder, among the batches of latents, and in the diffusion model: the same weights, bit for bit."""
    out, experiment = tmp_path / "run", experiments.load(str(place / "mine.py"))
    experiment = dataclasses.replace(experiment, data=schema.Data(flip=True, dir=place / "data"))

    def stopped_after(number):
        calls = iter(range(number))
        finished = train.train(experiment, out, stop=lambda: next(calls, None) is None)
        return finished, *(runs.step_of(out, part, "last") for part in ("autoencoder", "diffusion"))

    assert stopped_after(2) == (False, 2, None)
    assert stopped_after(2 + 5) == (False, 4, None)
    assert (out / latents.WRITING).exists()
    assert not (out / "latents").exists()
    batches = 2 * 180 + 45  # of 8 mirrored and held-out digits
    assert stopped_after(batches + 3) == (False, 4, 3)
    assert stopped_after(100) == (True, 4, 4)
    for part in schema.TRAINED:
        chex.assert_trees_all_equal(*(runs.params(each, part) for each in (whole, out)))
    assert not (out / latents.WRITING).exists()


def forbid(*_):
    raise AssertionError("latents are computed again")


@pytest.mark.slow
def test_latents_are_computed_once(place, tmp_path, capsys, monkeypatch):
    out = copied(place, tmp_path)
    monkeypatch.setattr(latents, "_compute_all", forbid)
    code, said, err = call(place, out, capsys, "--diffusion.num-steps", "5")
    assert code == 0, err
    assert "latents of" not in said
    assert checkpoint.latest(out / "diffusion" / "checkpoints") == 5


@pytest.mark.slow
@pytest.mark.parametrize("change", ["no folder", "an array", "another type"])
def test_latents_that_are_not_there_are_computed_again(place, tmp_path, capsys, change):
    out, more = copied(place, tmp_path), ["--diffusion.num-steps", "4"]
    before = np.load(out / "latents" / "train.npy")
    if change == "no folder":
        shutil.rmtree(out / "latents")
    elif change == "an array":
        (out / "latents" / "held_out.npy").unlink()
    else:
        more = ["--autoencoder.latent-dtype", "float16"]
    (out / latents.WRITING).mkdir()
    (out / latents.WRITING / "train.npy").write_bytes(b"the remains of a killed run")
    whitening = latent_space.read_whitening(out)
    code, said, err = call(place, out, capsys, *more)
    assert code == 0, err
    assert f"{out / 'latents'}: 3234 latents of 4x4x2" in said
    after = np.load(out / "latents" / "train.npy")
    assert after.dtype == (np.float16 if change == "another type" else np.float32)
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)
    assert latent_space.read_whitening(out) == whitening
    assert not (out / latents.WRITING).exists()


@pytest.mark.slow
def test_an_autoencoder_that_was_trained_further_has_other_latents(place, tmp_path, capsys):
    """Before any network was trained on its latents; afterwards it stays as it is."""
    out = copied(place, tmp_path)
    more = ("--autoencoder.num-steps", "6")
    files = sorted(out.rglob("*"))
    code, _, err = call(place, out, capsys, *more)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "was trained on the latents of step 4 of the autoencoder; give --autoencoder.num-steps 4" in err
    assert sorted(out.rglob("*")) == files
    shutil.rmtree(out / "diffusion")
    code, said, err = call(place, out, capsys, *more, "--classifier.num-steps", "0")
    assert code == 0, err
    assert "of step 6" in said
    found = latent_space.read_whitening(out)
    assert found.step == 6
    assert found.shift != latent_space.read_whitening(place / "run").shift


def test_a_run_without_its_autoencoder_says_so(place, tmp_path, capsys):
    out = copied(place, tmp_path)
    shutil.rmtree(out / "autoencoder")
    code, _, err = call(place, out, capsys)
    assert (code, "has lost its autoencoder" in err) == (2, True), err
    code, _, err = run_script(sample.main, [out, "--num-samples", "1", "--out", tmp_path / "out"], capsys)
    assert (code, "has no trained autoencoder" in err) == (2, True), err


def test_pixels_and_latents_are_different_runs(place, tmp_path, capsys):
    out = copied(place, tmp_path)
    code, _, err = call(place, out, capsys, "--autoencoder.num-steps", "0")
    assert (code, "holds another run (autoencoder.num_steps: 4 -> 0)" in err) == (2, True), err
    code, _, err = call(place, tmp_path / "b", capsys, "--diffusion.from", out, "--diffusion.num-steps", "0")
    assert (code, "is for models of pixels" in err) == (2, True), err


@pytest.fixture(scope="module")
def adopted(place):
    """Another run with the autoencoder of the first, and a smaller transformer."""
    more = ("--autoencoder.from", place / "run", "--diffusion.transformer.depth", "1", "--classifier.num-steps", "0")
    train.main([str(word) for word in words(place, place / "adopted", *more)])
    return place / "adopted"


@pytest.mark.slow
def test_an_autoencoder_serves_several_runs(place, adopted):
    """With its settings, step and whitening; its checkpoints stay where they are."""
    own, other = runs.load(adopted), runs.load(place / "run")
    assert sorted(path.name for path in (adopted / "autoencoder").iterdir()) == ["whitening.json"]
    assert own.experiment.autoencoder.from_run == place / "run"
    assert own.experiment.autoencoder.network == other.experiment.autoencoder.network
    params, others = own.params("diffusion"), other.params("diffusion")
    for name in ("autoencoder", "whitening"):
        chex.assert_trees_all_equal(params[name], others[name])
    latent_space.check_same(params, others)
    np.testing.assert_array_equal(*(np.load(each / "latents" / "held_out.npy") for each in (adopted, place / "run")))


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False])
def test_a_bad_model_works_on_the_same_latents(place, adopted, tmp_path, capsys, same):
    bad = shutil.copytree(adopted, tmp_path / "bad")
    if not same:
        own = latent_space.read_whitening(bad)
        latent_space.write_whitening(bad, own._replace(shift=tuple(2 * each for each in own.shift)))
    options = ["--guidance", "autoguidance", "--bad", bad, "--scale", "2", "--num-samples", "2", "--steps", "2"]
    code, _, err = run_script(sample.main, [place / "run", *options, "--out", tmp_path / "out"], capsys)
    assert code == (0 if same else 2), err
    assert same or "--bad works on the latents of another autoencoder" in err


@pytest.mark.slow
def test_an_autoencoder_that_is_not_there_is_not_adopted(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    for source, message in (("nowhere", "nowhere"), (tmp_path / "moved", "has no trained autoencoder")):
        code, _, err = call(place, tmp_path / "run", capsys, "--autoencoder.from", source)
        assert (code, message in err) == (2, True), err
    assert not (tmp_path / "run").exists()


WRONG = {
    "--data.crop random does not go with an autoencoder": ["--data.crop", "random", "--data.image-size", "8"],
    "--diffusion.self-conditioning does not go with": ["--diffusion.self-conditioning"],
    "--diffusion.low-res is for an upsampler": ["--diffusion.low-res", "4"],
    "--diffusion.low-res does not go with an autoencoder": [
        *("--diffusion.low-res", "2", "--diffusion.architecture", "unet"),
    ],
    "--diffusion.transformer.depth has no effect with --diffusion.architecture unet": [
        *("--diffusion.architecture", "unet", "--diffusion.transformer.depth", "3")
    ],
    "--diffusion.network.dropout has no effect with --diffusion.architecture dit": [
        "--diffusion.network.dropout",
        "0.1",
    ],
    "go together": ["--autoencoder.perceptual-weight", "0.1"],
    "is no trained judge; train one with": [
        *("--autoencoder.perceptual-weight", "0.1", "--autoencoder.perceptual-judge", "nowhere")
    ],
    "have to be multiples of 16, and the pictures are 8x8": [
        *("--autoencoder.network.block-out-channels", "4", "4", "4", "4", "4")
    ],
    "--diffusion.transformer.patch-size is 3, which does not divide the sides of 4x4": [
        *("--diffusion.transformer.patch-size", "3")
    ],
    "cannot be split into 3": ["--autoencoder.network.norm-num-groups", "3"],
    "internal_head has 2, but the network has blocks_0, blocks_1": ["--diffusion.transformer.internal-head", "2"],
    "--autoencoder.kl-weight is -1": ["--autoencoder.kl-weight", "-1"],
    "which this run never measures": ["--autoencoder.keep-best-by", "held_out_accuracy"],
}


@pytest.mark.parametrize(("message", "options"), WRONG.items(), ids=WRONG)
def test_wrong_use_is_one_sentence_and_leaves_nothing(place, tmp_path, capsys, message, options):
    code, _, err = call(place, tmp_path / "run", capsys, *options)
    lines = [line for line in err.splitlines() if not line.startswith("autoencoder: ")]
    assert (code, len(lines), message in lines[0]) == (2, 1, True), err
    assert not (tmp_path / "run").exists()


def test_nll_is_of_pixels(place, tmp_path, capsys):
    code, _, err = run_script(nll.main, [place / "run", "--out", tmp_path / "bits"], capsys)
    assert (code, "nll is of pixels" in err) == (2, True), err


def test_settings_round_trip_and_older_runs_are_of_pixels(place, tmp_path):
    saved = json.loads((place / "run" / "config.json").read_text())
    assert schema.from_dict(saved["experiment"]).autoencoder == EXPERIMENT.autoencoder
    assert schema.from_dict(schema.to_dict(EXPERIMENT)) == EXPERIMENT
    older = schema.to_dict(schema.Experiment())
    del older["autoencoder"], older["diffusion"]["architecture"], older["diffusion"]["transformer"]
    assert schema.from_dict(older) == schema.Experiment()
    assert not schema.from_dict(older).latent


def test_a_whitening_that_is_damaged_is_named(place, tmp_path, capsys):
    out = copied(place, tmp_path)
    (out / "autoencoder" / "whitening.json").write_text("{")
    code, _, err = run_script(sample.main, [out, "--num-samples", "1", "--out", tmp_path / "out"], capsys)
    assert (code, "whitening.json is damaged" in err) == (2, True), err


def test_the_perceptual_term_is_of_the_judge_that_is_named(place, tmp_path):
    network = Judge(10, (8, 8))
    params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    judges.describe(tmp_path, network, (8, 8, 1), trained=1)
    with checkpoint.opened(tmp_path / "checkpoints") as saved:
        checkpoint.save(saved, 1, {"ema": params})
    own = schema.Autoencoder(**{**vars(EXPERIMENT.autoencoder), "perceptual_judge": tmp_path, "perceptual_weight": 0.5})
    run = runs.load(place / "run")
    run = run._replace(experiment=schema.Experiment(autoencoder=own))
    image, output = jax.random.uniform(jax.random.key(1), (2, 3, 8, 8, 1), minval=-1, maxval=1)
    maps = jax.jit(lambda *both: [feature_maps(network, params, x) for x in both])(image, output)
    assert [each.shape for each in maps[0]] == [(3, 8, 8, 8), (3, 4, 4, 8)]
    np.testing.assert_allclose(
        jax.jit(autoencoder.make_perceptual(run))(output, image), losses.autoencoding.perceptual(*maps), rtol=1e-5
    )
    weights = latent_space.load_weights(place / "run", 4)
    value, terms = jax.device_get(
        jax.jit(autoencoder.make_loss(run))(weights, jax.random.split(jax.random.key(2), 3), {"image": image})
    )
    assert value == pytest.approx(terms["reconstruction"] + 1e-6 * terms["kl"] + 0.5 * terms["perceptual"], rel=1e-5)
    other = run._replace(facts=run.facts._replace(image_shape=(4, 4, 1)))
    with pytest.raises(ValueError, match=r"was trained on pictures of \(8, 8, 1\), these are \(4, 4, 1\)"):
        autoencoder.make_perceptual(other)


@pytest.mark.parametrize("part", [pytest.param("autoencoder", marks=pytest.mark.slow), "diffusion"])
def test_a_network_starts_from_that_of_another_run(place, part):
    run = runs.load(place / "run")
    own = schema.from_dict(
        {**schema.to_dict(getattr(run.experiment, part)), "init_from": str(place / "run")},
        type(getattr(run.experiment, part)),
    )
    run = runs.assemble(schema.Experiment(**{**vars(run.experiment), part: own}), run.facts)
    assert "starts from the averaged weights of" in init_from.check(run, part, place / "elsewhere")
    state = networks.init_state(run, part, init_from.load(run, part))
    chex.assert_trees_all_equal(jax.device_get(state.params), jax.device_get(runs.params(place / "run", part)))


@pytest.mark.slow
def test_an_average_after_training_has_the_same_decoder(place, tmp_path, capsys):
    code, _, err = run_script(posthoc.main, [place / "run", "--sigma-rel", "0.2", "--out", tmp_path / "run"], capsys)
    assert code == 0, err
    made, own = (runs.load(out).params("diffusion") for out in (tmp_path / "run", place / "run"))
    chex.assert_trees_all_equal(made["autoencoder"], own["autoencoder"])
    options = ["--num-samples", "2", "--steps", "3", "--out", tmp_path / "out"]
    code, _, err = run_script(sample.main, [tmp_path / "run", *options], capsys)
    assert code == 0, err
    assert len(npz.read(tmp_path / "out" / "samples.npz", ["arr_0"])["arr_0"]) == 2


@pytest.mark.slow
def test_parameters_divided_over_devices_are_trained_measured_and_drawn(place, tmp_path, capsys):
    more = ["--shard-parameters", "--devices", "4", "--shard-group", "2", "--classifier.num-steps", "0"]
    more += ["--diffusion.measure-every", "4", "--diffusion.measure-samples", "10"]
    code, _, err = call(place, tmp_path / "run", capsys, *more)
    assert code == 0, err
    chex.assert_trees_all_close(
        *(jax.device_get(runs.params(out, "autoencoder")) for out in (place / "run", tmp_path / "run")), atol=1e-5
    )
    assert "samples_fd" in log.read(tmp_path / "run" / "diffusion" / "metrics.jsonl")[-1]


@pytest.mark.slow
def test_a_transformer_of_pixels_trains_and_draws(place, tmp_path, capsys):
    more = ["--autoencoder.num-steps", "0", "--classifier.num-steps", "0", "--schedule.name", "flow"]
    code, _, err = call(place, tmp_path / "run", capsys, *more, "--diffusion.parameterization", "flow")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "diffusion"]
    options = ["--guidance", "perturbed-attention", "--scale", "2", "--num-samples", "2", "--steps", "3"]
    code, _, err = run_script(sample.main, [tmp_path / "run", *options, "--out", tmp_path / "out"], capsys)
    assert code == 0, err
    assert images.load_npz(tmp_path / "out" / "samples.npz")[0].shape == (2, 8, 8, 1)


@pytest.mark.parametrize("name", ["digits_latent", "fashion_mnist_latent"])
def test_the_experiments_go_together(name):
    checks.check(experiments.load(name))
    assert experiments.load(name).latent
